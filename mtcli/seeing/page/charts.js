// Numbers over numbers: curves of a log, intervals of scores, bars of groups, histograms of lengths.
import { checkbox, count, exact, figure, h, responsive, s, short } from "./base.js";
import { table } from "./table.js";

export const colour = (index) => `var(--series${index % 6})`;
export const legend = (names) => names.length > 1 && h("p", { class: "legend" }, names.map((name, index) => h("span", { "--c": colour(index) }, h("bdi", {}, name))));

const span = (values) => {
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  return low < high ? [low, high] : [low - 1, high + 1];
};
// About `n` round numbers between two; on a logarithmic scale, 1, 2 and 5 times powers of ten.
const ticks = ([low, high], n, log) => {
  if (log) {
    const all = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) for (const digit of [1, 2, 5]) all.push(digit * 10 ** power);
    const inside = all.filter((tick) => tick >= low && tick <= high);
    return inside.length > n ? inside.filter((tick) => Number.isInteger(+Math.log10(tick).toFixed(9))) : inside;
  }
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= rough) * power;
  return Array.from({ length: n + 2 }, (_, k) => +((Math.ceil(low / step) + k) * step).toPrecision(12)).filter((tick) => tick <= high);
};
const axis = ([low, high], from, to, log) => {
  const f = log ? Math.log : (value) => value;
  return (value) => from + ((f(value) - f(low)) / (f(high) - f(low))) * (to - from);
};

// series: [{ name, points: [[update, value], ...], run, dashed }]
export const curves = (title, series, scale = { log: false }) => {
  let at = null;
  const xs = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
  const positive = series.every((one) => one.points.every(([, y]) => y > 0));
  const readout = h("output", { class: "readout", "aria-live": "polite" });
  const draw = (box, width) => {
    const log = scale.log && positive;
    const [height, left, bottom] = [Math.min(230, width * 0.62), 46, 26];
    const [xSpan, ySpan] = [span(xs), span(series.flatMap((one) => one.points.map(([, y]) => y)))];
    const [x, y] = [axis(xSpan, left, width - 10), axis(ySpan, height - bottom, 8, log)];
    const grid = [
      ticks(ySpan, 4, log).map((tick) => [s("path", { class: "grid", d: `M${left},${y(tick)}H${width - 10}` }), s("text", { x: left - 6, y: y(tick), dy: "0.35em", "text-anchor": "end" }, short(tick))]),
      ticks(xSpan, width < 300 ? 3 : 5).map((tick) => s("text", { x: x(tick), y: height - 8, "text-anchor": "middle" }, count(tick))),
    ];
    const marks = s("g", {});
    const lines = series.map((one) => [
      s("path", { class: one.dashed ? "curve dashed" : "curve", "--c": colour(one.run), d: one.points.map(([a, b], index) => `${index ? "L" : "M"}${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("") }),
      one.points.length < 2 && one.points.map(([a, b]) => s("circle", { class: "spot", "--c": colour(one.run), cx: x(a), cy: y(b), r: 3 })),
    ]);
    const show = (update) => {
      at = update;
      const near = series.map((one) => [one, one.points.reduce((best, point) => (Math.abs(point[0] - update) < Math.abs(best[0] - update) ? point : best))]);
      marks.replaceChildren(s("path", { class: "hair", d: `M${x(update)},8V${height - bottom}` }), ...near.map(([one, [a, b]]) => s("circle", { class: "spot", "--c": colour(one.run), cx: x(a), cy: y(b), r: 4 })));
      readout.replaceChildren(`update ${count(update)}`, ...near.map(([one, [, b]]) => h("span", { "--c": colour(one.run) }, `${one.name} ${exact(b)}`)));
    };
    const nearest = (pixel) => xs.reduce((best, update) => (Math.abs(x(update) - pixel) < Math.abs(x(best) - pixel) ? update : best));
    const svg = s("svg", {
      class: "curves", width, height, tabindex: 0, role: "application", "aria-roledescription": "chart",
      "aria-label": `${title} over updates ${xSpan.join(" to ")}: ${series.map((one) => `${one.name} from ${exact(one.points[0][1])} to ${exact(one.points.at(-1)[1])}`).join("; ")}`,
      onpointermove: (event) => show(nearest(event.clientX - svg.getBoundingClientRect().left)), onfocus: () => show(at ?? xs.at(-1)),
      onkeydown: (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        show(xs[Math.max(0, Math.min(xs.length - 1, xs.indexOf(at) + step))]);
      },
    }, grid, lines, marks);
    const focused = box.contains(document.activeElement);
    box.replaceChildren(svg);
    if (focused) svg.focus();
  };
  const plot = responsive(draw, { class: "plot" });
  scale.plots?.push(plot);
  const numbers = () => table(["update", ...series.map((one) => one.name)], xs.map((update) => [update, ...series.map((one) => one.points.find(([x]) => x === update)?.[1])]));
  return figure(title, "", [plot, readout], numbers);
};

// What a log's lines have, one plot a quantity: [title, [names of it while training, at validation]].
const QUANTITIES = { loss: "Loss", perplexity: "Perplexity", learning_rate: "Learning rate", gradient_norm: "Gradient norm", tokens_per_second: "Target tokens per second" };
const HIDDEN = new Set(["update", "epoch", "seconds", "validation_seconds", "target_tokens", "skipped"]);
export const learning = (runs) => {
  const found = {};
  runs.forEach(({ name: run, log }, index) => {
    for (const line of log ?? []) {
      for (const [part, numbers] of [["training", line], ["training", line.clock ?? {}], ["validation", line.validation ?? {}]]) {
        for (const [name, value] of Object.entries(numbers)) {
          if (HIDDEN.has(name) || !Number.isFinite(value)) continue;
          const all = (found[name] ??= {});
          const label = runs.length > 1 ? `${run}, ${part}` : part;
          (all[`${part} ${index}`] ??= { name: label, run: index, dashed: part === "validation", points: [] }).points.push([line.update, value]);
        }
      }
    }
  });
  const rank = (name) => (Object.keys(QUANTITIES).indexOf(name) + 1 || 2.5); // scores stand between perplexity and learning rate
  const scale = { log: false, plots: [] };
  const change = (log) => {
    scale.log = log;
    scale.plots.forEach((plot) => plot.redraw());
  };
  return [h("div", { class: "controls" }, h("span", {}, "Solid: while training. Dashed: at validation."), checkbox("logarithmic", false, change)),
    h("div", { class: "plots" }, Object.keys(found).sort((a, b) => rank(a) - rank(b)).map((name) => curves(QUANTITIES[name] ?? name, Object.values(found[name]), scale)))];
};

// rows: [{ label, value, low, high, run }] on one scale.
export const intervals = (title, rows) => {
  const values = rows.flatMap((row) => [row.low ?? row.value, row.high ?? row.value]);
  const [low, high] = span(rows.length > 1 ? values : [0, ...values]);
  const margin = (high - low) * 0.08;
  const draw = (box, width) => {
    const x = axis([low - (rows.length > 1 ? margin : 0), high + margin], 6, width - 6);
    const height = rows.length * 26 + 22;
    box.replaceChildren(s("svg", { class: "intervals", width, height, role: "img", "aria-label": `${title}: ${rows.map((row) => `${row.label} ${exact(row.value)}, from ${exact(row.low)} to ${exact(row.high)}`).join("; ")}` },
      ticks([low, high], 5).map((tick) => [s("path", { class: "grid", d: `M${x(tick)},0V${height - 20}` }), s("text", { x: x(tick), y: height - 5, "text-anchor": "middle" }, short(tick))]),
      rows.map((row, index) => s("g", { "--c": colour(row.run), transform: `translate(0,${index * 26 + 13})` },
        s("path", { class: "whisker", d: `M${x(row.low ?? row.value)},0H${x(row.high ?? row.value)}m0,-5v10M${x(row.low ?? row.value)},-5v10` }), s("circle", { class: "spot", cx: x(row.value), r: 5 })))));
  };
  return h("div", { class: "metric" }, h("h3", {}, title), responsive(draw, { class: "plot" }));
};

// groups: [{ label, values: [{ run, value, note }] }]; a bar for each run under each label.
export const bars = (title, note, groups) => {
  const most = Math.max(...groups.flatMap((group) => group.values.map((one) => one.value)));
  return figure(title, note, h("div", { class: "bars" }, groups.map((group) => group.values.map((one, index) =>
    h("div", { class: "bar" }, h("bdi", {}, index ? "" : group.label), h("i", { "--w": most ? one.value / most : 0, "--c": colour(one.run) }), h("span", {}, short(one.value), one.note && h("small", {}, ` ${one.note}`)))))));
};

// columns: [[tokens up to, sentences], ...] of each side
export const histogram = (title, sides) => {
  const names = Object.keys(sides);
  const bins = [...new Set(names.flatMap((name) => sides[name].map(([end]) => end)))].sort((a, b) => a - b);
  const height = (name, bin) => sides[name].find(([end]) => end === bin)?.[1] ?? 0;
  const most = Math.max(1, ...names.flatMap((name) => sides[name].map(([, sentences]) => sentences)));
  const draw = (box, width) => {
    const [tall, step] = [130, (width - 12) / bins.length];
    const every = Math.ceil(34 / step);
    box.replaceChildren(s("svg", { class: "histogram", width, height: tall + 24, role: "img", "aria-label": `${title}: lengths in tokens, at most ${count(most)} sentences in a bin; the table below has all numbers` },
      bins.map((bin, index) => [
        names.map((name, side) => s("rect", { "--c": colour(side), x: 6 + index * step + 1 + (side * (step - 2)) / names.length, width: Math.max(1, (step - 3) / names.length), y: tall - (height(name, bin) / most) * (tall - 6), height: (height(name, bin) / most) * (tall - 6) },
          s("title", {}, `${name}, up to ${bin} tokens: ${count(height(name, bin))}`))),
        index % every === 0 && s("text", { x: 6 + (index + 0.5) * step, y: tall + 16, "text-anchor": "middle" }, bin)]),
      s("path", { class: "grid", d: `M0,${tall + 0.5}H${width}` })));
  };
  const numbers = () => table(["tokens up to", ...names], bins.map((bin) => [bin, ...names.map((name) => height(name, bin))]));
  return figure(title, "Sentences by length in tokens.", [legend(names), responsive(draw, { class: "plot" })], numbers);
};
