// The page as a whole: what a trace shows, what a report shows, and the history between checkpoints.
import { attention } from "./attention.js";
import { count, exact, figure, h, probability, select } from "./base.js";
import { bars, curves, histogram, intervals, learning, legend } from "./charts.js";
import { table } from "./table.js";
import { nBest, tokens } from "./tokens.js";
import { tree } from "./tree.js";

const sentence = (text, name) => h("p", { class: name, dir: "auto" }, text);

// All that is known of one translation. `brief` leaves out what a history has no room for.
const trace = (one, choice, brief = false) =>
  h("article", { class: "trace" },
    h("header", {}, h("p", { class: "note" }, one.model, one.forced && " · given translation"), sentence(one.source.text, "source"), sentence(one.target.text, "target"),
      h("p", { class: "note" }, `probability ${exact(probability(one.log_probability))} · log-probability ${exact(one.log_probability)} · score ${exact(one.score)}`)),
    attention(one, choice), one.steps.length > 0 && tokens(one), !brief && one.hypotheses.length > 1 && nBest(one), !brief && one.tree.length > 1 && tree(one));

// Traces of one sentence stand side by side.
const traces = (all) => {
  const groups = new Map();
  for (const one of all) groups.set(one.source.text, [...(groups.get(one.source.text) ?? []), one]);
  return [...groups.values()].map((group) => h("div", { class: "beside" }, group.map((one) => trace(one))));
};

// The same sentences at each validation: one stop of the slider is one checkpoint.
const history = (run) => {
  const stops = run.history.filter((stop) => stop.traces.length);
  let [at, which, timer] = [stops.length - 1, 0, null];
  const choice = {};
  const stage = h("div", { class: "stage" });
  const update = h("output", { class: "update", "aria-live": "polite" });
  const slider = h("input", { type: "range", min: 0, max: stops.length - 1, step: 1, "aria-label": "checkpoint", oninput: () => go(+slider.value) });
  const list = h("ol", { class: "versions" });
  const traceAt = (index) => stops[index].traces[which];
  const go = (index) => {
    at = index;
    slider.value = at;
    slider.setAttribute("aria-valuetext", `update ${stops[at].update}`);
    update.textContent = `update ${count(stops[at].update)}`;
    [...list.children].forEach((node, place) => node.classList.toggle("on", place === at));
    list.scrollTop = list.children[at].offsetTop - list.clientHeight / 2;
    const now = traceAt(at);
    stage.style.minHeight = `${stage.offsetHeight}px`; // what stands below does not jump while it plays
    stage.replaceChildren(now ? trace(now, choice, true) : h("p", { class: "note" }, "This checkpoint has no trace of the sentence."));
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  const play = h("button", { onclick: () => {
    if (timer) return stop();
    if (at === stops.length - 1) go(0);
    play.textContent = "Pause";
    timer = setInterval(() => (at < stops.length - 1 ? go(at + 1) : stop()), 700);
  } }, "Play");
  const choose = (index) => {
    which = +index;
    list.replaceChildren(...stops.map((one, place) => h("li", {}, h("button", { onclick: () => go(place) },
      h("span", {}, count(one.update)), h("bdi", {}, traceAt(place)?.target.text ?? "–"), h("span", {}, traceAt(place) && short3(traceAt(place).score))))));
    stage.style.minHeight = "";
    go(at);
  };
  const sources = stops.at(-1).traces.map((one, index) => [index, one.source.text]);
  const confidence = curves("Log-probability of its own translation.", sources.map(([index, text]) => ({
    name: text, run: index, points: stops.filter((one) => one.traces[index]).map((one) => [one.update, one.traces[index].log_probability]),
  })).filter((one) => one.points.length));
  confidence.firstChild.after(legend(sources.map(([, text]) => text)) || "");
  choose(0);
  return h("div", { class: "history" }, h("div", { class: "controls" }, select("Sentence", sources, 0, choose)),
    h("div", { class: "scrubber" }, play, slider, update), list, stage, confidence);
};
const short3 = (value) => (Number.isFinite(value) ? value.toFixed(2) : "–");

const byRun = (runs, key) => runs.map((run, index) => [run, index]).filter(([run]) => run[key]?.length);
const perRun = (runs, key, draw) => byRun(runs, key).map(([run]) => [runs.length > 1 && h("h3", {}, run.name), draw(run)]);

const facts = (runs) => {
  const names = [...new Set(runs.flatMap((run) => (run.facts ?? []).map(([name]) => name)))];
  const of = (run, name) => run.facts?.find(([other]) => other === name)?.[1];
  return names.length && table(["", ...runs.map((run) => run.name)], names.map((name) => [name, ...runs.map((run) => of(run, name))]));
};

const data = (run) => {
  const columns = { name: "data", pairs: "pairs", source_tokens: "source tokens", target_tokens: "target tokens", duplicates: "duplicates",
    in_train: "also in training", unknown: "share of unknown tokens" };
  const there = Object.keys(columns).filter((key) => run.data.some((one) => (one[key] ?? null) !== null));
  return [table(there.map((key) => columns[key]), run.data.map((one) => there.map((key) => one[key]))),
    h("div", { class: "plots" }, run.data.filter((one) => one.lengths).map((one) => histogram(one.name, one.lengths)))];
};

const scores = (runs, significance) => {
  const metrics = [...new Set(runs.flatMap((run) => (run.scores ?? []).map((score) => score.metric)))];
  const rows = byRun(runs, "scores").flatMap(([run, index]) => run.scores.map((score) => ({ ...score, label: run.name, run: index })));
  if (!metrics.length) return null;
  return [legend(runs.map((run) => run.name)),
    figure("Scores.", "The line is the interval in which the score lies for 95 of 100 test sets drawn like this one.", h("div", { class: "plots" }, metrics.map((metric) => intervals(metric, rows.filter((row) => row.metric === metric))))),
    table(["run", "metric", "score", "low", "high", "signature"], rows.map((row) => [row.label, row.metric, row.value, row.low, row.high, row.signature])),
    significance?.length > 0 && figure("Differences.", "p: how often a difference this large comes from chance alone.", table(["runs", "metric", "difference", "p"],
      significance.map((one) => [one.runs.map((index) => runs[index].name).join(" – "), one.metric, one.difference, one.p])))];
};

const buckets = (runs) => {
  const all = byRun(runs, "buckets").flatMap(([run, index]) => run.buckets.map((bucket) => ({ ...bucket, run: index })));
  const kinds = [...new Set(all.map((bucket) => bucket.by))];
  return kinds.length && [legend(runs.map((run) => run.name)), h("div", { class: "plots wide" }, kinds.map((by) => {
    const mine = all.filter((bucket) => bucket.by === by);
    return bars(`Score by ${by}.`, "", [...new Set(mine.map((bucket) => bucket.label))].map((label) => ({ label, values: mine.filter((bucket) => bucket.label === label && Number.isFinite(bucket.score)).map((bucket) => ({ run: bucket.run, value: bucket.score, note: `${count(bucket.sentences)} sentences` })) })));
  }))];
};

// A row opens the traces of its sentence, of every run that has one.
const sentences = (runs) => perRun(runs, "sentences", (run) =>
  table(["source", "reference", "translation", "score"], run.sentences.map((one) => [one.source, one.reference, one.hypothesis, one.score, one]), {
    sortable: true, stacked: true, size: 20,
    open: (row) => {
      const same = runs.flatMap((other) => (other.sentences ?? []).filter((one) => one.source === row[0] && one.trace).map((one) => one.trace));
      return same.length ? () => h("div", { class: "beside" }, same.map((one) => trace(one))) : null;
    },
  }));

const report = ({ runs, significance }) => {
  const parts = [
    ["What was trained", facts(runs)],
    ["On what", perRun(runs, "data", data)],
    ["How it learned", [legend(runs.map((run) => run.name)), learning(runs)], byRun(runs, "log").length],
    ["How good it is", scores(runs, significance)],
    ["Where it is good", buckets(runs)],
    ["How it came to know", perRun(runs, "history", history)],
    ["Sentence by sentence", sentences(runs)],
  ].filter(([, content, there = content]) => there && content && content.length !== 0);
  return [h("nav", { "aria-label": "parts" }, parts.map(([name], index) => h("a", { href: `#part${index}` }, name))),
    parts.map(([name, content], index) => h("section", { id: `part${index}` }, h("h2", {}, name), content))];
};

const { traces: given, report: reported } = JSON.parse(document.getElementById("data").textContent);
document.getElementById("page").replaceChildren(h("h1", {}, document.title), ...[reported ? report(reported) : traces(given)].flat(Infinity).filter((node) => node instanceof Node));
