// A matrix of weights as coloured cells: rows look at columns. Arrow keys move from cell to cell.
import { forth, isolated, measure, rtl, s, shortened, within } from "./base.js";

// `point(row, column)` hears where the reader is, `point(null, null)` that they left.
export const heatmap = ({ rows, columns, weights, marked, label }, point) => {
  const mirrored = rtl(columns.map((column) => column.text).join(" "));
  const names = [rows, columns].map((items) => items.map((item) => shortened(item.text, 24)));
  const [rowWidth, columnWidth] = names.map((texts) => Math.max(...texts.map((text) => measure(text))));
  const cell = Math.max(18, Math.min(34, Math.min(520, innerWidth - 150) / columns.length)); // smaller where there are many
  const [side, slope] = [rowWidth + 14, columnWidth * 0.71 + 16];
  const [width, height] = [side + columns.length * cell + slope, slope + rows.length * cell + 2];
  const left = (column) => (mirrored ? width - side - (column + 1) * cell : side + column * cell);
  const middle = (row) => slope + (row + 0.5) * cell;
  const square = (row, column, gap) => {
    const size = cell - 2 * gap;
    return { x: left(column) + gap, y: slope + row * cell + gap, width: size, height: size, rx: 3 };
  };
  const besides = { x: mirrored ? width - side + 8 : side - 8, dy: "0.35em", "text-anchor": mirrored ? "start" : "end" };
  const rowLabels = names[0].map((text, row) => s("text", { ...besides, y: middle(row) }, isolated(text)));
  const columnLabels = names[1].map((text, column) => {
    const transform = `translate(${left(column) + cell / 2 + (mirrored ? 3 : -3)},${slope - 7}) rotate(${mirrored ? 45 : -45})`;
    return s("text", { transform, dy: "0.35em", "text-anchor": mirrored ? "end" : "start" }, isolated(text));
  });
  const cells = weights.map((line, row) => line.map((weight, column) =>
    s("rect", { ...square(row, column, 1), class: "cell", "--w": weight, "data-at": `${row},${column}` })));
  const cursor = s("rect", { class: "cursor" });
  const dots = cells.flatMap((line, row) => line.map((_, column) => marked(row, column) &&
    s("circle", { class: "dot", cx: left(column) + cell / 2, cy: middle(row), r: 2.5 })));
  let at = [0, 0];
  const show = (row, column) => {
    rowLabels.forEach((node, index) => node.classList.toggle("on", index === row));
    columnLabels.forEach((node, index) => node.classList.toggle("on", index === column));
    cursor.classList.toggle("on", row !== null && column !== null);
    Object.entries(square(row ?? 0, column ?? 0, 0)).forEach(([name, value]) => cursor.setAttribute(name, value));
  };
  const move = (row, column) => {
    at = [within(row, rows.length), within(column, columns.length)];
    point(...at);
  };
  const node = s("svg", {
    class: "heatmap", width, height, tabindex: 0, role: "application",
    "aria-roledescription": "heatmap", "aria-label": `${label}. Arrow keys move from cell to cell; the table below has all numbers.`,
    onpointermove: (event) => event.target.dataset.at && move(...event.target.dataset.at.split(",").map(Number)),
    onpointerleave: () => point(null, null),
    onfocus: () => move(...at),
    onblur: () => point(null, null),
    onkeydown: (event) => {
      const [down, on] = [{ ArrowUp: -1, ArrowDown: 1 }[event.key], forth(event.key, mirrored)];
      if (!down && !on) return;
      event.preventDefault();
      move(at[0] + (down || 0), at[1] + (on || 0));
      cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
    },
  }, rowLabels, columnLabels, cells, dots, cursor);
  return { node, show };
};
