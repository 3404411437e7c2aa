// Who looks at whom: two lines of text with arcs between them, and the same weights as a heatmap.
import { checkbox, figure, forth, h, responsive, roving, rtl, s, select } from "./base.js";
import { heatmap } from "./heatmap.js";
import { table } from "./table.js";

const KINDS = { cross: "target looks at source", encoder: "source looks at source", decoder: "target looks at target" };

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
  const dir = rtl(side.text) ? "rtl" : "ltr";
  const line = h("p", { class: byWords ? "line" : "line pieces", dir, role: "group", "aria-label": label });
  for (const item of items) {
    const start = item.word === null ? -1 : side.text.indexOf(item.text, at);
    const shown = byWords ? item.text : seam(side, item.ids[0]);
    spans.push(h("span", { class: byWords && item.word === null ? "item mark" : "item", role: "img", "aria-label": item.text }, shown));
    line.append(!byWords ? "" : start < 0 ? " " : side.text.slice(at, start), spans.at(-1));
    if (start >= 0) at = start + item.text.length;
  }
  return { line, spans };
};

// A row is the mean of its tokens' rows, what it gives to a column the sum over the column's tokens.
const total = (ids, value) => ids.reduce((sum, id) => sum + value(id), 0);
const merged = (matrix, rows, columns) =>
  rows.map((row) => columns.map((column) =>
    +(total(row.ids, (r) => total(column.ids, (c) => matrix[r]?.[c] ?? 0)) / row.ids.length).toFixed(4)));

// The weights of one choice, with what its rows and columns are.
const view = (trace, choice) => {
  const heads = trace.attention[`${choice.kind}.${choice.layer}`];
  const mean = () => heads[0].map((line, r) => line.map((_, c) => total(heads, (head) => head[r][c]) / heads.length));
  let matrix = heads[choice.head] ?? mean();
  let [target, source] = [trace.target, trace.source];
  if (choice.kind === "encoder") target = source;
  if (choice.kind === "decoder") // what it looks at are its inputs: a start, then each token but the last
    source = { ...target, tokens: ["<s>", ...target.tokens.slice(0, -1)], word_of: [null, ...target.word_of.slice(0, -1)] };
  if (choice.shifted && choice.kind === "cross" && matrix.length > 1) { // a token looks around at the step that reads it
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
    const middle = (span) => {
      const { left, width, top, bottom } = span.getBoundingClientRect();
      return [left + width / 2 - origin.left, top - origin.top, bottom - origin.top];
    };
    const [from, to] = [below.spans.map(middle), above.spans.map(middle)];
    const least = (row ?? column) === null && box.clientHeight > 200 ? Infinity : 0.02; // all arcs of long lines are a tangle
    const paths = weights.flatMap((line, r) => line.map((weight, c) => {
      if (weight < least || (row !== null ? r !== row : column !== null && c !== column)) return null;
      const [[x0, y0], [x1, , y1]] = [from[r], to[c]];
      const bend = (y0 - y1) / 2;
      const d = `M${x0},${y0} C${x0},${y0 - bend} ${x1},${y1 + bend} ${x1},${y1}`;
      return s("path", { d, "stroke-width": 1 + 4 * weight, opacity: (row ?? column) === null ? weight * 0.55 : 0.25 + 0.75 * weight });
    }));
    picture.replaceChildren(...paths.filter(Boolean));
  };
  const box = responsive(draw, { class: "arcs" });
  const mark = (spans, chosen, given) => spans.forEach((span, index) => {
    span.classList.toggle("on", index === chosen);
    span.toggleAttribute("data-w", given(index) >= 0.01);
    if (given(index) >= 0.01) span.dataset.w = given(index).toFixed(2);
  });
  const show = (row, column) => {
    active = [row, column];
    mark(below.spans, row, (r) => (row === null && column !== null ? weights[r][column] : 0));
    mark(above.spans, column, (c) => (row !== null ? weights[row][c] : 0));
    box.redraw();
  };
  const along = (side) => (key, index) => index + forth(key, rtl(side.text));
  roving(above.spans, along(source), (column) => point(null, column), () => point(null, null));
  roving(below.spans, along(target), (row) => point(row, null), () => point(null, null));
  box.append(above.line, below.line, picture);
  return { node: box, show };
};

// What is said about a place: the exact weight of a cell, or the strongest of a row or a column.
const said = ({ rows, columns, weights }, row, column) => {
  const name = (item) => h("bdi", {}, item.text);
  if (row === null && column === null) return ["Point at a word or a cell, or move with Tab and arrow keys."];
  if (row !== null && column !== null) return [name(rows[row]), " → ", name(columns[column]), ` ${weights[row][column]}`];
  const [item, verb] = row !== null ? [rows[row], " looks at"] : [columns[column], " is looked at by"];
  const others = row !== null ? columns.map((other, c) => [other, weights[row][c]]) : rows.map((other, r) => [other, weights[r][column]]);
  const best = others.filter(([, weight]) => weight > 0).sort((a, b) => b[1] - a[1]).slice(0, 4);
  return [name(item), verb, best.flatMap(([other, weight], index) => [index ? ", " : " ", name(other), ` ${weight}`])];
};

// A trace opens with what is asked for as `shown`. `choice` keeps what the reader chose, for the next trace in the same place.
export const attention = (trace, choice = {}) => {
  const layers = {};
  for (const name of Object.keys(trace.attention)) (layers[name.split(".")[0]] ??= []).push(name.split(".")[1]);
  const kinds = Object.keys(KINDS).filter((kind) => layers[kind]);
  if (!kinds.length) return h("p", { class: "note" }, "There is no attention to show.");
  const from = trace.shown ?? trace.alignment_from;
  const [kind, layer] = from && trace.attention[from.map] ? from.map.split(".") : [kinds[0], layers[kinds[0]].at(-1)];
  const byWords = [trace.source, trace.target].every((side) => side.words?.length);
  const first = { kind, layer, head: from?.head ?? "mean", shifted: from?.shifted ?? false, words: byWords };
  for (const key of Object.keys(first)) choice[key] ??= first[key];
  const controls = h("div", { class: "controls" });
  const stage = h("div");
  const readout = h("output", { class: "readout", "aria-live": "polite" });
  let seen;
  const draw = () => {
    if (!layers[choice.kind]) choice.kind = kinds[0];
    if (!layers[choice.kind].includes(choice.layer)) choice.layer = layers[choice.kind].at(-1);
    const heads = trace.attention[`${choice.kind}.${choice.layer}`];
    if (choice.head >= heads.length) choice.head = "mean";
    const set = (name) => (value) => {
      choice[name] = value;
      draw();
      controls.querySelector(`[name=${name}]`)?.focus();
    };
    const chooser = (label, name, options) => options.length > 1 && select(label, options, choice[name], set(name), name);
    const choosers = [
      chooser("Attention", "kind", kinds.map((name) => [name, KINDS[name]])),
      chooser("Layer", "layer", layers[choice.kind].map((name) => [name, name])),
      chooser("Head", "head", heads.length > 1 ? [["mean", "mean"], ...heads.map((_, head) => [head, head])] : []),
      choice.kind === "cross" && checkbox("shifted", choice.shifted, set("shifted"), "shifted"),
      byWords && checkbox("whole words", choice.words, set("words"), "words"),
    ];
    controls.replaceChildren(...choosers.filter(Boolean));
    seen = view(trace, choice);
    const point = (row, column) => {
      map.show(row, column);
      lines.show(row, column);
      readout.replaceChildren(...said(seen, row, column).flat());
    };
    const label = `Heatmap of attention, ${KINDS[choice.kind]}: ${seen.rows.length} by ${seen.columns.length}`;
    const map = heatmap({ ...seen, label }, point);
    const lines = arcs(seen, choice.words, point);
    stage.replaceChildren(lines.node, readout, h("div", { class: "scroll" }, map.node));
    readout.replaceChildren(...said(seen, null, null));
    shown.querySelector("details")?.dispatchEvent(new Event("toggle")); // the numbers are of this choice, too
  };
  const numbers = () =>
    table(["", ...seen.columns.map((item) => item.text)], seen.rows.map((item, row) => [item.text, ...seen.weights[row]]));
  const dots = trace.alignment.length > 0 && "A dot marks words that are aligned. ";
  const note = ["Each row is one that looks, each column what it looks at. ", dots, h("span", { class: "scale" }, "0 ", h("i", {}), " 1")];
  const shown = figure("Attention.", note, [controls, stage], numbers);
  draw();
  return shown;
};
