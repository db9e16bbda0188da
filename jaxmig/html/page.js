"use strict";
// Values of what is pointed at or focused; Escape puts them away.
const tip = document.getElementById("tip");
const said = (event) => {
  const at = event.target.closest("main [aria-label][data-value]");
  tip.textContent = at ? at.getAttribute("aria-label") : "";
};
for (const kind of ["mouseover", "focusin", "touchstart"])
  document.addEventListener(kind, said, { passive: true });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.textContent = "";
});

// Tables by a column: numbers by size, words by letters; once more turns it round.
for (const button of document.querySelectorAll("th button"))
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const at = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[at].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [Number(key(a)), Number(key(b))];
      const order = Number.isNaN(x) || Number.isNaN(y)
        ? key(a).localeCompare(key(b)) : x - y;
      return up ? order : -order;
    });
    body.append(...rows);
  });

// A box of a call tree to the whole width; once more, or the root, shows all.
const open = (box) => {
  const tree = box.parentElement;
  const whole = tree.dataset.open === box.dataset.x + " " + box.dataset.w;
  const [x, w] = whole ? [0, 100] : [Number(box.dataset.x), Number(box.dataset.w)];
  tree.dataset.open = whole ? "" : box.dataset.x + " " + box.dataset.w;
  for (const one of tree.children) {
    one.setAttribute("x", ((Number(one.dataset.x) - x) / w) * 100 + "%");
    one.setAttribute("width", (Number(one.dataset.w) / w) * 100 + "%");
  }
};
for (const box of document.querySelectorAll(".tree > svg")) {
  box.addEventListener("click", () => open(box));
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(box);
    }
  });
}
