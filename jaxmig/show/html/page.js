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

// Tab reaches each group of values once; the arrow keys, Home and End go about in it.
// In a call tree up and down are caller and callee.
const beside = (at, all, key) => {
  const i = all.indexOf(at);
  const depth = Number(at.dataset.depth);
  const back = all.slice(0, i).reverse();
  const found = {
    ArrowRight: all[i + 1],
    ArrowLeft: back[0],
    Home: all[0],
    End: all[all.length - 1],
    ArrowDown: all[i + 1],
    ArrowUp: Number.isNaN(depth)
      ? back[0] : back.find((one) => Number(one.dataset.depth) < depth),
  };
  return found[key];
};
document.addEventListener("keydown", (event) => {
  const at = event.target.closest("[role=group] [data-value]");
  if (!at) return;
  const shown = at.closest("[role=group]").querySelectorAll("[data-value]:not([visibility])");
  const next = beside(at, [...shown], event.key);
  if (!next) return;
  event.preventDefault();
  at.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
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

// A box of a call tree to the whole width, its callers with it; once more, or the root,
// shows all.
const open = (box) => {
  const whole = box.getAttribute("aria-pressed") === "true";
  const [x, w] = whole ? [0, 100] : [Number(box.dataset.x), Number(box.dataset.w)];
  for (const one of box.parentElement.children) {
    const from = Math.max(Number(one.dataset.x), x);
    const to = Math.min(Number(one.dataset.x) + Number(one.dataset.w), x + w);
    one.setAttribute("x", ((from - x) / w) * 100 + "%");
    one.setAttribute("width", (Math.max(to - from, 0) / w) * 100 + "%");
    if (to - from > w / 1e6) one.removeAttribute("visibility");
    else one.setAttribute("visibility", "hidden");
    one.setAttribute("aria-pressed", String(one === box && !whole));
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
