// The page as a whole: what a trace shows, what a report shows, and the history between checkpoints.
import { attention } from "./attention.js";
import { count, exact, h, select, short } from "./base.js";
import { bars, histogram, learning, legend, span } from "./charts.js";
import { table } from "./table.js";
import { nBest, tokens } from "./tokens.js";
import { tree } from "./tree.js";

// All that is known of one translation.
const trace = (one, choice) => {
  const sentence = (text, name) => h("p", { class: name, dir: "auto" }, text);
  const numbers = { probability: Math.exp(one.log_probability), "log-probability": one.log_probability, score: one.score };
  const said = Object.entries(numbers).map(([name, value]) => `${name} ${exact(value)}`).join(" · ");
  return h("article", { class: "trace" },
    h("header", {}, h("p", { class: "note" }, one.model, one.forced && " · given translation"),
      sentence(one.source.text, "source"), sentence(one.target.text, "target"), h("p", { class: "note" }, said)),
    attention(one, choice), one.steps.length > 0 && tokens(one), one.hypotheses.length > 1 && nBest(one), one.tree.length > 1 && tree(one));
};

// Traces of one sentence stand side by side.
const beside = (group) => h("div", { class: "beside" }, group.map((one) => trace(one)));
const traces = (all) => {
  const groups = new Set(all.map((one) => one.source.text));
  return [...groups].map((text) => beside(all.filter((one) => one.source.text === text)));
};

// The same sentences at each validation: one stop of the slider is one checkpoint.
const history = (run) => {
  const stops = run.history.filter((stop) => stop.traces.length);
  if (!stops.length) return null;
  const sources = [...new Set(stops.flatMap((stop) => stop.traces.map((one) => one.source.text)))];
  let [at, source, timer] = [stops.length - 1, sources[0], null];
  const traceAt = (index) => stops[index].traces.find((one) => one.source.text === source);
  const choice = {}; // of layer and head: the same at all checkpoints
  const stage = h("div");
  const update = h("output", { class: "update", "aria-live": "polite" });
  const slider = h("input", { type: "range", min: 0, max: stops.length - 1, "aria-label": "checkpoint", oninput: () => go(+slider.value) });
  const list = h("ol", { class: "versions" });
  const go = (index) => {
    at = index;
    slider.value = at;
    update.textContent = `update ${count(stops[at].update)}`;
    slider.setAttribute("aria-valuetext", update.textContent);
    [...list.children].forEach((node, place) => node.classList.toggle("on", place === at));
    requestAnimationFrame(() => (list.scrollTop = list.children[at].offsetTop - list.clientHeight / 2));
    stage.style.minHeight = `${stage.offsetHeight}px`; // what stands below does not jump while it plays
    const now = traceAt(at);
    stage.replaceChildren(now ? trace(now, choice) : h("p", { class: "note" }, "This checkpoint has no trace of the sentence."));
  };
  const stop = () => {
    timer = clearInterval(timer);
    play.textContent = "Play";
  };
  const start = () => {
    if (at === stops.length - 1) go(0);
    play.textContent = "Pause";
    timer = setInterval(() => (at < stops.length - 1 ? go(at + 1) : stop()), 700);
  };
  const play = h("button", { onclick: () => (timer ? stop() : start()) }, "Play");
  const version = ({ update }, place) => {
    const [text, score] = [traceAt(place)?.target.text ?? "–", traceAt(place)?.score.toFixed(2)];
    return h("li", {}, h("button", { onclick: () => go(place) }, h("span", {}, count(update)), h("bdi", {}, text), h("span", {}, score)));
  };
  const choose = (text) => {
    source = text;
    list.replaceChildren(...stops.map(version));
    stage.style.minHeight = "";
    go(at);
  };
  choose(source);
  const chooser = h("div", { class: "controls" }, select("Sentence", sources.map((text) => [text, text]), source, choose));
  return h("div", { class: "history" }, chooser, h("div", { class: "scrubber" }, play, slider, update), list, stage);
};

const having = (runs, key) => runs.map((run, index) => [run, index]).filter(([run]) => run[key]?.length);
const perRun = (runs, key, draw) => having(runs, key).map(([run]) => [runs.length > 1 && h("h3", {}, run.name), draw(run)]);
const runLegend = (runs) => legend(runs.map((run) => run.name));
const different = (all, key) => [...new Set(all.map((one) => one[key]))];

const facts = (runs) => {
  const names = [...new Set(runs.flatMap((run) => (run.facts ?? []).map(([name]) => name)))];
  const fact = (run, name) => run.facts?.find(([other]) => other === name)?.[1];
  return names.length && table(["", ...runs.map((run) => run.name)], names.map((name) => [name, ...runs.map((run) => fact(run, name))]));
};

const COLUMNS = { name: "data", pairs: "pairs", source_tokens: "source tokens", target_tokens: "target tokens",
  duplicates: "duplicates", in_train: "also in training", unknown: "share of unknown tokens" };
const data = (run) => {
  const there = Object.keys(COLUMNS).filter((key) => run.data.some((one) => (one[key] ?? null) !== null));
  return [table(there.map((key) => COLUMNS[key]), run.data.map((one) => there.map((key) => one[key]))),
    h("div", { class: "plots" }, run.data.filter((one) => one.lengths).map((one) => histogram(one.name, one.lengths)))];
};

const SCORE = ["metric", "value", "low", "high"];
const scores = (runs, significance) => {
  const rows = having(runs, "scores").flatMap(([run, index]) => run.scores.map((score) => ({ ...score, label: run.name, run: index })));
  const plot = (metric) => {
    const groups = rows.filter((row) => row.metric === metric)
      .map((row) => ({ label: row.label, values: [{ ...row, note: `${short(row.low)} to ${short(row.high)}` }] }));
    const values = groups.flatMap(({ values: [{ value, low, high }] }) => [low ?? value, high ?? value]);
    return bars(metric, groups, span(groups.length > 1 ? values : [0, ...values]));
  };
  const names = (indices) => indices.map((index) => runs[index].name).join(" – ");
  const differences = (significance ?? []).map((one) => [names(one.runs), one.metric, one.difference, one.p]);
  return rows.length && [
    h("p", { class: "note" }, "The line is where the score lies for 95 of 100 test sets drawn like this one."),
    h("div", { class: "plots wide" }, different(rows, "metric").map(plot)),
    table(["run", ...SCORE, "signature"], rows.map((row) => [row.label, ...SCORE.map((key) => row[key]), row.signature])),
    differences.length > 0 && table(["runs", "metric", "difference", "p: chance alone makes one as large"], differences),
  ];
};

const buckets = (runs) => {
  const of = (sentences) => `${count(sentences)} sentence${sentences === 1 ? "" : "s"}`;
  const all = having(runs, "buckets").flatMap(([run, index]) => run.buckets.filter((bucket) => Number.isFinite(bucket.score))
    .map((bucket) => ({ ...bucket, run: index, value: bucket.score, note: of(bucket.sentences) })));
  const plot = (by) => {
    const mine = all.filter((bucket) => bucket.by === by);
    const groups = different(mine, "label").map((label) => ({ label, values: mine.filter((bucket) => bucket.label === label) }));
    return bars(`Score by ${by}`, groups, span([0, ...mine.map((bucket) => bucket.value)]));
  };
  return all.length && [runLegend(runs), h("div", { class: "plots wide" }, different(all, "by").map(plot))];
};

// A row opens the traces of its sentence, of every run that has one.
const sentences = (runs) => {
  const open = ([source]) => {
    const same = runs.flatMap((run) => (run.sentences ?? []).filter((one) => one.source === source && one.trace).map((one) => one.trace));
    return same.length ? () => beside(same) : null;
  };
  const options = { sortable: true, stacked: true, size: 20, open };
  const row = (one) => [one.source, one.reference, one.hypothesis, one.score];
  return perRun(runs, "sentences", (run) => table(["source", "reference", "translation", "score"], run.sentences.map(row), options));
};

const report = ({ runs, significance }) => {
  const curves = learning(runs);
  const parts = Object.entries({
    "What was trained": facts(runs),
    "On what": perRun(runs, "data", data),
    "How it learned": curves && [runLegend(runs), curves],
    "How good it is": scores(runs, significance),
    "Where it is good": buckets(runs),
    "How it came to know": perRun(runs, "history", history),
    "Sentence by sentence": sentences(runs),
  }).filter(([, content]) => content && content.length !== 0);
  return [h("nav", { "aria-label": "parts" }, parts.map(([name], index) => h("a", { href: `#part${index}` }, name))),
    parts.map(([name, content], index) => h("section", { id: `part${index}` }, h("h2", {}, name), content))];
};

const given = JSON.parse(document.getElementById("data").textContent);
document.getElementById("page").replaceWith(
  h("main", {}, h("h1", {}, document.title), given.report ? report(given.report) : traces(given.traces)));
