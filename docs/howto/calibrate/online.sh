for state in /sys/devices/system/memory/memory*/state; do
    grep -q offline $state && echo online > $state
done
