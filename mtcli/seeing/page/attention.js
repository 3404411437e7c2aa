// Who looks at whom: two lines of text with arcs between them, and the same weights as a heatmap.
import { checkbox, figure, h, responsive, roving, rtl, s, select } from "./base.js";
import { heatmap } from "./heatmap.js";
import { table } from "./table.js";

const KINDS = { cross: "target looks at source", encoder: "source looks at source", decoder: "target looks at target" };
const rounded = (weight) => +weight.toFixed(4);

// What a line shows: the words of a text, or its tokens. A token that belongs to no word stands for itself.
const itemsOf = (side, byWords) => {
  const items = [];
  side.tokens.forEach((token, index) => {
    const word = byWords ? side.word_of[index] ?? null : null;
    const last = items.at(-1);
    if (word !== null && last?.word === word) last.ids.push(index);
    else items.push({ text: word === null ? token : side.words[word], word, ids: [index] });
  });
  return items;
};

// Tokens of one word that are shown apart keep the shapes their letters have in it: joiners stand at the seams.
const seam = (side, index) => {
  const joins = (a, b) => side.word_of[a] !== null && side.word_of[a] === side.word_of[b] && rtl(side.tokens[a] ?? "");
  return (joins(index, index - 1) ? "\u200d" : "") + side.tokens[index] + (joins(index, index + 1) ? "\u200d" : "");
};

// Words stand in their text, with its spaces, so that it flows and breaks like any other.
const lineOf = (side, items, byWords, label) => {
  let at = 0;
  const spans = [];
  const line = h("p", { class: byWords ? "line" : "line pieces", dir: rtl(side.text) ? "rtl" : "ltr", role: "group", "aria-label": label });
  for (const item of items) {
    const inText = item.word !== null;
    const start = inText ? side.text.indexOf(item.text, at) : -1;
    const span = h("span", { class: inText || !byWords ? "item" : "item mark", role: "img", "aria-label": item.text },
      byWords ? item.text : seam(side, item.ids[0]));
    line.append(!byWords ? "" : start < 0 ? " " : side.text.slice(at, start), span);
    if (start >= 0) at = start + item.text.length;
    spans.push(span);
  }
  return { line, spans };
};

// A row is the mean of its tokens' rows, what it gives to a column the sum over the column's tokens.
const merged = (matrix, rows, columns) =>
  rows.map((row) => columns.map((column) =>
    rounded(row.ids.reduce((sum, r) => sum + column.ids.reduce((part, c) => part + (matrix[r]?.[c] ?? 0), 0), 0) / row.ids.length)));

// The weights of one choice, with what its rows and columns are.
const view = (trace, choice) => {
  const heads = trace.attention[`${choice.kind}.${choice.layer}`];
  let matrix = heads[choice.head] ?? heads[0].map((line, r) => line.map((_, c) => heads.reduce((sum, head) => sum + head[r][c], 0) / heads.length));
  let [target, source] = [trace.target, trace.source];
  if (choice.kind === "encoder") target = source;
  if (choice.kind === "decoder") // what it looks at are its inputs: a start, then each token but the last
    source = { ...target, tokens: ["<s>", ...target.tokens.slice(0, -1)], word_of: [null, ...target.word_of.slice(0, -1)] };
  const shifted = choice.shifted && choice.kind === "cross" && matrix.length > 1;
  if (shifted) { // a token looks around at the step that reads it, one after the step that predicts it
    matrix = matrix.slice(1);
    target = { ...target, tokens: target.tokens.slice(0, -1) };
  }
  const [rows, columns] = [itemsOf(target, choice.words), itemsOf(source, choice.words)];
  const pairs = new Set(choice.kind === "cross" ? trace.alignment.map(([a, b]) => `${b},${a}`) : []);
  const marked = (r, c) => choice.words && pairs.has(`${rows[r].word},${columns[c].word}`);
  return { rows, columns, target, source, marked, weights: merged(matrix, rows, columns) };
};

const arcs = ({ rows, columns, target, source, weights }, words, point) => {
  const above = lineOf(source, columns, words, "looked at");
  const below = lineOf(target, rows, words, "looking");
  const picture = s("svg", { "aria-hidden": "true" });
  let active = [null, null];
  const draw = (box) => {
    const [row, column] = active;
    const origin = box.getBoundingClientRect();
    const middle = (span) => { const r = span.getBoundingClientRect(); return [r.left + r.width / 2 - origin.left, r.top - origin.top, r.bottom - origin.top]; };
    const from = below.spans.map(middle);
    const to = above.spans.map(middle);
    const quiet = row === null && column === null;
    const paths = weights.flatMap((line, r) => line.map((weight, c) => {
      if (weight < 0.02 || (row !== null && r !== row) || (column !== null && row === null && c !== column)) return null;
      const [[x0, y0], [x1, , y1]] = [from[r], to[c]];
      const bend = (y0 - y1) / 2;
      return s("path", { d: `M${x0},${y0} C${x0},${y0 - bend} ${x1},${y1 + bend} ${x1},${y1}`, "stroke-width": 1 + 4 * weight, opacity: quiet ? weight * 0.55 : 0.25 + 0.75 * weight });
    }));
    picture.replaceChildren(...paths.filter(Boolean));
  };
  const box = responsive(draw, { class: "arcs" });
  const show = (row, column) => {
    active = [row, column];
    below.spans.forEach((span, r) => {
      span.classList.toggle("on", r === row);
      const given = row === null && column !== null ? weights[r][column] : 0;
      given >= 0.01 ? span.setAttribute("data-w", given.toFixed(2)) : span.removeAttribute("data-w");
    });
    above.spans.forEach((span, c) => {
      span.classList.toggle("on", c === column);
      const given = row !== null ? weights[row][c] : 0;
      given >= 0.01 ? span.setAttribute("data-w", given.toFixed(2)) : span.removeAttribute("data-w");
    });
    box.redraw();
  };
  roving(above.spans, rtl(source.text), (column) => point(null, column), () => point(null, null));
  roving(below.spans, rtl(target.text), (row) => point(row, null), () => point(null, null));
  box.append(above.line, below.line, picture);
  return { node: box, show };
};

// What is said about a place: the exact weight of a cell, or the strongest of a row or a column.
const said = ({ rows, columns, weights }, row, column) => {
  const name = (item) => h("bdi", {}, item.text);
  const one = (item, weight) => [name(item), ` ${weight}`];
  if (row !== null && column !== null) return [name(rows[row]), " → ", one(columns[column], weights[row][column])];
  if (row === null && column === null) return ["Point at a word or a cell, or move with Tab and arrow keys."];
  const list = row !== null ? columns.map((item, c) => [item, weights[row][c]]) : rows.map((item, r) => [item, weights[r][column]]);
  const best = list.sort((a, b) => b[1] - a[1]).slice(0, 4).filter(([, weight]) => weight > 0);
  return [name(row !== null ? rows[row] : columns[column]), row !== null ? " looks at " : " is looked at by ", best.map(([item, weight], index) => [index ? ", " : "", one(item, weight)])];
};

// `choice` keeps what the reader chose, for whoever draws the next trace in the same place.
export const attention = (trace, choice = {}) => {
  const layers = {};
  for (const name of Object.keys(trace.attention)) (layers[name.split(".")[0]] ??= []).push(name.split(".")[1]);
  const kinds = Object.keys(KINDS).filter((kind) => layers[kind]);
  if (!kinds.length) return h("p", { class: "note" }, "This model has no attention to show.");
  const from = trace.alignment_from;
  const [kind, layer] = from && trace.attention[from.map] ? from.map.split(".") : [kinds[0], layers[kinds[0]].at(-1)];
  const byWords = [trace.source, trace.target].every((side) => side.words?.length);
  for (const [key, value] of Object.entries({ kind, layer, head: from?.head ?? "mean", shifted: from?.shifted ?? false, words: byWords })) choice[key] ??= value;
  const controls = h("div", { class: "controls" });
  const stage = h("div", {});
  const readout = h("output", { class: "readout", "aria-live": "polite" });
  let seen;
  const draw = () => {
    if (!layers[choice.kind]) choice.kind = kinds[0];
    if (!layers[choice.kind].includes(choice.layer)) choice.layer = layers[choice.kind].at(-1);
    const heads = trace.attention[`${choice.kind}.${choice.layer}`].length;
    if (choice.head >= heads) choice.head = "mean";
    const set = (name) => (value) => ((choice[name] = value), draw());
    const focused = [...controls.querySelectorAll("select, input")].indexOf(document.activeElement);
    controls.replaceChildren(...[
      kinds.length > 1 && select("Attention", kinds.map((name) => [name, KINDS[name]]), choice.kind, set("kind")),
      layers[choice.kind].length > 1 && select("Layer", layers[choice.kind].map((name) => [name, name]), choice.layer, set("layer")),
      heads > 1 && select("Head", [["mean", "mean of all"], ...Array.from({ length: heads }, (_, head) => [head, head])], choice.head, set("head")),
      choice.kind === "cross" && checkbox("shifted", choice.shifted, set("shifted")),
      byWords && checkbox("whole words", choice.words, set("words")),
    ].filter(Boolean));
    controls.querySelectorAll("select, input")[focused]?.focus();
    seen = view(trace, choice);
    const point = (row, column) => {
      map.show(row, column);
      lines.show(row, column);
      readout.replaceChildren(...said(seen, row, column).flat(3));
    };
    const label = `Heatmap of attention, ${KINDS[choice.kind]}: ${seen.rows.length} by ${seen.columns.length}`;
    const map = heatmap({ ...seen, label }, point);
    const lines = arcs(seen, choice.words, point);
    stage.replaceChildren(lines.node, readout, h("div", { class: "scroll" }, map.node));
    readout.replaceChildren(...said(seen, null, null));
  };
  draw();
  const numbers = () => table(["", ...seen.columns.map((item) => item.text)], seen.rows.map((item, row) => [item.text, ...seen.weights[row]]));
  const scale = h("span", { class: "scale" }, "0 ", h("i", {}), " 1");
  return figure("Attention.", ["Each row is a target word, each column what it looks at. ", trace.alignment.length ? "A dot marks the words that are aligned. " : "", scale], [controls, stage], numbers);
};
