// Tables: numbers to the right, text in its own direction, sorted by a click on a column's name.
import { exact, h } from "./base.js";

const cell = (value, name, numeric) =>
  h("td", { class: numeric && "number", "data-name": name }, h("bdi", {}, typeof value === "number" ? exact(value) : value ?? "–"));
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

// `open(row)` gives what a row shows when it is opened, or null; `size` rows are shown at first.
export const table = (names, rows, { sortable = false, open = null, size = Infinity, stacked = false } = {}) => {
  const body = h("tbody");
  const more = h("button", { class: "more", onclick: () => ((size = Infinity), fill()) }, `Show all ${rows.length}`);
  const numeric = names.map((_, column) => rows.some((row) => typeof row[column] === "number"));
  let [by, sign] = [null, 1];
  const line = (row) => {
    const node = h("tr", {}, row.map((value, column) => cell(value, names[column], numeric[column])));
    const inside = open?.(row);
    if (!inside) return node;
    const button = h("button", { class: "open", "aria-expanded": "false" }, "Look");
    button.addEventListener("click", () => {
      const opened = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!opened));
      if (opened) node.nextSibling.remove();
      else node.after(h("tr", { class: "inside" }, h("td", { colspan: names.length + 1 }, inside())));
    });
    node.append(h("td", {}, button));
    return node;
  };
  const fill = () => {
    const sorted = by === null ? rows : [...rows].sort((a, b) => sign * compare(a[by], b[by]));
    body.replaceChildren(...sorted.slice(0, size).map(line));
    more.hidden = size >= rows.length;
    const direction = (column) => (column !== by ? "none" : sign > 0 ? "ascending" : "descending");
    heads.forEach((head, column) => head.setAttribute("aria-sort", direction(column)));
  };
  const sort = (column) => {
    sign = by === column ? -sign : 1;
    by = column;
    fill();
  };
  const heads = names.map((name, column) =>
    h("th", { scope: "col", class: numeric[column] && "number" }, sortable ? h("button", { onclick: () => sort(column) }, name) : name));
  const node = h("table", { class: stacked && "stacked" }, h("thead", {}, h("tr", {}, heads, open && h("td"))), body);
  fill();
  return h("div", { class: "scroll" }, node, more);
};
