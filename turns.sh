for i in 1 2 3; do for d in /tmp/w/s8/clone /work/main; do
cd $d; export PYTHONPATH=$d
echo "$d $(nice -n -10 python bench/conditions.py --pages 262144,1048576 --repeat 5 2>/dev/null| tail -2 | tr '\n' ';')"
nice -n -10 python bench/mixes.py --mix quarter,64k,16k,shared --kernel 6.3 2>/dev/null | tail -4 | sed "s#^#$d #"
done; done
