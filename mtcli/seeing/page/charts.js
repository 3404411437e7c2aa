// Numbers over numbers: curves of a log, intervals of scores, bars of groups, histograms of lengths.
import { bar, checkbox, colour, count, exact, figure, forth, h, responsive, s, short, within } from "./base.js";
import { table } from "./table.js";

export const legend = (names) =>
  names.length > 1 && h("p", { class: "legend" }, names.map((name, index) => h("span", { "--c": colour(index) }, h("bdi", {}, name))));

export const span = (values) => {
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const room = low < high ? 0 : Math.abs(low) / 10 || 1;
  return [low - room, high + room];
};
// About four round numbers between two; on a logarithmic scale, 1, 2 and 5 times powers of ten.
const ticks = ([low, high], log) => {
  const power = 10 ** Math.floor(Math.log10(log ? low : (high - low) / 4));
  if (log) {
    const all = Array.from({ length: 40 }, (_, k) => [1, 2, 5][k % 3] * power * 10 ** Math.floor(k / 3));
    const inside = all.filter((tick) => tick >= low && tick <= high);
    return inside.length > 6 ? inside.filter((tick) => String(tick).replace(/0|\.|e.*/g, "") === "1") : inside;
  }
  const step = [1, 2, 5, 10].find((digit) => digit * power * 4 >= high - low) * power;
  return Array.from({ length: 6 }, (_, k) => +((Math.ceil(low / step) + k) * step).toPrecision(12)).filter((tick) => tick <= high);
};
const closest = (places, place) =>
  places.reduce((best, other, index) => (Math.abs(other - place) < Math.abs(places[best] - place) ? index : best), 0);
const axis = ([low, high], from, to, log) => {
  const f = log ? Math.log : (value) => value;
  return (value) => from + ((f(value) - f(low)) / (f(high) - f(low))) * (to - from);
};

// series: [{ name, points: [[update, value], ...], run, dashed }]
const curves = (title, series, logarithmic) => {
  const xs = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
  const spans = [span(xs), span(series.flatMap((one) => one.points.map(([, y]) => y)))];
  const readout = h("output", { class: "readout", "aria-live": "polite" });
  const said = series.map((one) => `${one.name} from ${exact(one.points[0][1])} to ${exact(one.points.at(-1)[1])}`).join("; ");
  let at = xs.length - 1;
  const draw = (box, width) => {
    const log = logarithmic && spans[1][0] > 0;
    const [left, right, bottom] = [46, width - 10, Math.min(204, width * 0.55)];
    const [x, y] = [axis(spans[0], left, right), axis(spans[1], bottom, 8, log)];
    const grid = ticks(spans[1], log).map((tick) => [
      s("path", { class: "grid", d: `M${left},${y(tick)}H${right}` }),
      s("text", { x: left - 6, y: y(tick), dy: "0.35em", "text-anchor": "end" }, short(tick)),
    ]);
    const updates = ticks(spans[0]).map((tick) => s("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, count(tick)));
    const spot = (one, [a, b]) => s("circle", { class: "spot", "--c": colour(one.run), cx: x(a), cy: y(b), r: 4 });
    const lines = series.map((one) => {
      const d = "M" + one.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L");
      const line = s("path", { class: one.dashed ? "curve dashed" : "curve", "--c": colour(one.run), d });
      return one.points.length > 1 ? line : spot(one, one.points[0]);
    });
    const marks = s("g", {});
    const show = (index) => {
      at = index;
      const near = series.map((one) => [one, one.points[closest(one.points.map(([a]) => a), xs[at])]]);
      marks.replaceChildren(s("path", { class: "hair", d: `M${x(xs[at])},8V${bottom}` }), ...near.map(([one, point]) => spot(one, point)));
      const numbers = near.map(([one, [, b]]) => h("span", { "--c": colour(one.run) }, `${one.name} ${exact(b)}`));
      readout.replaceChildren(`update ${count(xs[at])}`, ...numbers);
    };
    const svg = s("svg", {
      width, height: bottom + 26, tabindex: 0, role: "application", "aria-roledescription": "chart",
      "aria-label": `${title} over updates ${spans[0].join(" to ")}: ${said}`,
      onpointermove: (event) => show(closest(xs.map(x), event.clientX - svg.getBoundingClientRect().left)),
      onfocus: () => show(at),
      onkeydown: (event) => {
        const step = forth(event.key);
        if (!step) return;
        event.preventDefault();
        show(within(at + step, xs.length));
      },
    }, grid, updates, lines, marks);
    box.replaceChildren(svg);
  };
  const numbers = () => table(["update", ...series.map((one) => one.name)],
    xs.map((update) => [update, ...series.map((one) => one.points.find(([x]) => x === update)?.[1])]));
  return figure(title, "", [responsive(draw, { class: "plot" }), readout], numbers);
};

const QUANTITIES = { loss: "Loss", perplexity: "Perplexity", learning_rate: "Learning rate", gradient_norm: "Gradient norm",
  tokens_per_second: "Target tokens per second" };
const HIDDEN = new Set(["update", "epoch", "seconds", "validation_seconds", "target_tokens", "skipped"]);

// One plot for each quantity in the lines of the runs' logs.
export const learning = (runs) => {
  const found = {};
  runs.forEach((run, index) => (run.log ?? []).forEach((line) => {
    for (const [part, numbers] of Object.entries({ training: { ...line, ...line.clock }, validation: line.validation ?? {} })) {
      for (const [name, value] of Object.entries(numbers)) {
        if (HIDDEN.has(name) || !Number.isFinite(value)) continue;
        const one = { name: runs.length > 1 ? `${run.name}, ${part}` : part, run: index, dashed: part === "validation", points: [] };
        ((found[name] ??= {})[`${part} ${index}`] ??= one).points.push([line.update, value]);
      }
    }
  }));
  const rank = (name) => Object.keys(QUANTITIES).indexOf(name) + 1 || 2.5; // scores stand between perplexity and learning rate
  const names = Object.keys(found).sort((a, b) => rank(a) - rank(b));
  const plots = h("div", { class: "plots" });
  const plot = (name, log) => curves(QUANTITIES[name] ?? name, Object.values(found[name]), log);
  const draw = (log) => plots.replaceChildren(...names.map((name) => plot(name, log)));
  draw(false);
  const note = h("span", {}, "Solid: while training. Dashed: at validation.");
  return names.length && [h("div", { class: "controls" }, note, checkbox("logarithmic", false, draw)), plots];
};

// groups: [{ label, values: [{ run, value, low, high, note }] }]; a bar for each run, or a line from low to high.
export const bars = (title, groups, scale) => {
  const x = axis(scale, 0, 1);
  const line = (label) => ({ run, value, low, high, note }, index) =>
    bar(index ? "" : label, x(value), [short(value), h("small", {}, ` ${note}`)], { run, from: low && x(low), to: high && x(high) });
  return figure(title, "", h("div", { class: "bars" }, groups.map(({ label, values }) => values.map(line(label)))));
};

// sides: { source: [[tokens up to, sentences], ...], target: ... }
export const histogram = (title, sides) => {
  const names = Object.keys(sides);
  const bins = [...new Set(names.flatMap((name) => sides[name].map(([end]) => end)))].sort((a, b) => a - b);
  const rows = bins.map((bin) => names.map((name) => sides[name].find(([end]) => end === bin)?.[1] ?? 0));
  const most = Math.max(1, ...rows.flat());
  const label = `${title}: sentences by length, at most ${count(most)} of one`;
  const column = (end, bin) =>
    h("div", {}, rows[bin].map((sentences, side) => h("i", { "--w": sentences / most, "--c": colour(side) })), h("small", {}, end));
  const look = bins.length > 12 ? "histogram many" : "histogram";
  const picture = h("div", { class: look, role: "img", "aria-label": label }, bins.map(column));
  const numbers = () => table(["tokens up to", ...names], bins.map((end, bin) => [end, ...rows[bin]]));
  return figure(title, "Sentences by length in tokens.", [legend(names), picture], numbers);
};
