// What all pictures share: elements, numbers, text. Text of people becomes text nodes and nothing else.

const make = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};
export const h = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Numbers: as exact as the data has them, without the noise of floating point.
export const exact = (value) => (Number.isInteger(value) ? count(value) : Number.isFinite(value) ? String(+value.toPrecision(6)) : "–");
export const short = (value) => (Number.isFinite(value) ? value.toLocaleString("en", { maximumSignificantDigits: 3 }) : "–");
export const count = (value) => (Number.isFinite(value) ? value.toLocaleString("en") : "–");
export const probability = (logarithm) => Math.exp(logarithm);
export const percent = (share) => (share > 0.9949 && share < 1 ? ">99" : share < 0.0051 && share > 0 ? "<1" : Math.round(share * 100)) + "%";

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
export const measure = (text, size = 13) => {
  canvas.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  return canvas.measureText(text).width;
};

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

// One stop of the Tab key for a row of items; arrow keys move within it, in reading order.
export const roving = (items, backwards, show, hide) => {
  const go = (index) => {
    const next = items[Math.max(0, Math.min(items.length - 1, index))];
    items.forEach((item) => item.setAttribute("tabindex", item === next ? 0 : -1));
    next.focus();
  };
  items.forEach((item, index) => {
    item.setAttribute("tabindex", index ? -1 : 0);
    item.addEventListener("pointerenter", () => show(index));
    item.addEventListener("focus", () => show(index));
    item.addEventListener("pointerleave", hide);
    item.addEventListener("blur", hide);
    item.addEventListener("keydown", (event) => {
      const step = { ArrowRight: backwards ? -1 : 1, ArrowLeft: backwards ? 1 : -1, Home: -Infinity, End: Infinity }[event.key];
      if (!step) return;
      event.preventDefault();
      go(index + step);
    });
  });
};

export const select = (label, options, value, change) => {
  const node = h("select", { onchange: () => change(node.value) },
    options.map(([key, name]) => h("option", { value: key, selected: String(key) === String(value) }, name)));
  return h("label", {}, `${label} `, node);
};
export const checkbox = (label, checked, change) => {
  const node = h("input", { type: "checkbox", checked, onchange: () => change(node.checked) });
  return h("label", {}, node, ` ${label}`);
};

// A picture with its caption; `numbers` makes the table that says the same in text, when it is opened.
export const figure = (title, note, picture, numbers) => {
  const details = numbers && h("details", {}, h("summary", {}, "Numbers"));
  details?.addEventListener("toggle", () => details.children.length > 1 || details.append(numbers()));
  return h("figure", {}, h("figcaption", {}, h("strong", {}, title), " ", note), picture, details);
};
