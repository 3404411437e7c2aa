// What all pictures share: elements, numbers, text. Text of people becomes text nodes and nothing else.

const make = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if ((value ?? false) === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value); // which the policy allows, unlike an attribute
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => (child ?? false) !== false));
  return node;
};
export const h = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Numbers: as exact as the data has them, without the noise of floating point.
export const exact = (value) => (Number.isInteger(value) ? count(value) : Number.isFinite(value) ? String(+value.toPrecision(6)) : "–");
export const short = (value) => (Number.isFinite(value) ? value.toLocaleString("en", { maximumSignificantDigits: 4 }) : "–");
export const count = (value) => (Number.isFinite(value) ? value.toLocaleString("en") : "–");
export const percent = (share) => (share > 0.995 && share < 1 ? ">99" : share < 0.005 && share > 0 ? "<1" : Math.round(share * 100)) + "%";

// Whether a text is read from right to left: its first letter decides, as for dir="auto".
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
export const rtl = (text) => RIGHT_TO_LEFT.test((text.match(/\p{L}/u) ?? [""])[0]);
export const isolated = (text) => `\u2068${text}\u2069`; // for SVG, which has no <bdi>

// A text of at most so many characters as people count them: no mark is cut from its letter.
const graphemes = new Intl.Segmenter();
export const shortened = (text, most) => {
  const parts = [...graphemes.segment(text)].map((part) => part.segment);
  return parts.length > most ? parts.slice(0, most - 1).join("") + "…" : text;
};

const canvas = document.createElement("canvas").getContext("2d");
canvas.font = `13px ${getComputedStyle(document.body).fontFamily}`;
export const measure = (text) => canvas.measureText(text).width;

// Draws again whenever the width changes, and once the fonts are there, since positions depend on both.
export const responsive = (draw, attributes = {}) => {
  const box = h("div", attributes);
  let width = 0;
  const again = (force) => {
    if (!box.clientWidth || (box.clientWidth === width && !force)) return;
    width = box.clientWidth;
    draw(box, width);
  };
  new ResizeObserver(() => again(false)).observe(box);
  document.fonts.ready.then(() => again(true));
  box.redraw = () => again(true);
  return box;
};

// One stop of the Tab key for several items; `move(key, index)` says which item an arrow key leads to, if any.
export const roving = (items, move, show, hide) => items.forEach((item, index) => {
  item.setAttribute("tabindex", index ? -1 : 0);
  for (const name of ["pointerenter", "focus"]) item.addEventListener(name, () => show(index));
  for (const name of ["pointerleave", "blur"]) item.addEventListener(name, hide);
  item.addEventListener("keydown", (event) => {
    const next = items[move(event.key, index)];
    if (!next) return;
    event.preventDefault();
    items.forEach((other) => other.setAttribute("tabindex", other === next ? 0 : -1));
    next.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
});
// What the keys to the left and right mean in a row that is read forwards or backwards: one on, one back, nothing.
export const forth = (key, backwards) => ({ ArrowRight: 1, ArrowLeft: -1 }[key] ?? NaN) * (backwards ? -1 : 1);
export const within = (index, length) => Math.max(0, Math.min(length - 1, index));

export const select = (label, options, value, change, name) => {
  const node = h("select", { name, onchange: () => change(node.value) },
    options.map(([key, name]) => h("option", { value: key, selected: String(key) === String(value) }, name)));
  return h("label", {}, `${label} `, node);
};
export const checkbox = (label, checked, change, name) => {
  const node = h("input", { type: "checkbox", name, checked, onchange: () => change(node.checked) });
  return h("label", {}, node, ` ${label}`);
};

// One number of a few as a bar: with `from`, an interval in which it lies.
export const bar = (label, share, said, { from, to, run, chosen } = {}) =>
  h("div", { class: chosen ? "bar chosen" : "bar", "--w": share, "--from": from, "--to": to, "--c": run !== undefined && colour(run) },
    h("bdi", {}, label), h("i", { class: from !== undefined && "interval" }), h("span", {}, said));
export const colour = (index) => `var(--series${index % 6})`;

// A picture with its caption; `numbers` makes the table that says the same in text, when it is opened.
export const figure = (title, note, picture, numbers) => {
  const body = h("div");
  const fill = (event) => body.replaceChildren(event.target.open ? numbers() : "");
  const details = numbers && h("details", { ontoggle: fill }, h("summary", {}, "Numbers"), body);
  return h("figure", {}, h("figcaption", {}, h("strong", {}, title), " ", note), picture, details);
};
