// What was chosen at each step, how sure the model was, and what else it thought of.
import { exact, figure, h, percent, probability, roving, rtl } from "./base.js";
import { table } from "./table.js";

// The mark of a space before a token is there, but quiet.
const piece = (token, attributes = {}) =>
  h("bdi", attributes, token.startsWith("▁") && h("span", { class: "space" }, "▁"), token.replace(/^▁/, ""));

const DOUBTFUL = 0.5; // below this probability, alternatives stand under a token

const alternatives = (step) =>
  h("div", { class: "bars" },
    h("p", {}, piece(step.token), `: probability ${exact(probability(step.log_probability))}, rank ${step.rank}, entropy ${exact(step.entropy)} nats`),
    step.alternatives.map((other) =>
      h("div", { class: other.token === step.token ? "bar chosen" : "bar" },
        piece(other.token), h("i", { "--w": probability(other.log_probability) }), h("span", {}, percent(probability(other.log_probability))))));

export const tokens = (trace) => {
  const panel = h("output", { class: "panel", "aria-live": "polite" });
  const show = (index) => panel.replaceChildren(alternatives(trace.steps[index]));
  const chips = trace.steps.map((step) => {
    const share = probability(step.log_probability);
    const others = share < DOUBTFUL || step.rank > 1 ? step.alternatives.filter((other) => other.token !== step.token).slice(0, 2) : [];
    return h("span", { class: "chip", dir: "ltr", role: "img", "--w": 1 - share, "aria-label": `${step.token}, ${percent(share)}` },
      piece(step.token, { class: "token" }), h("small", {}, percent(share), step.rank > 1 && ` · rank ${step.rank}`),
      others.map((other) => h("small", { class: "other" }, piece(other.token), ` ${percent(probability(other.log_probability))}`)));
  });
  const backwards = rtl(trace.target.text);
  roving(chips, backwards, show, () => {});
  const doubt = trace.steps.reduce((worst, step, index) => (step.log_probability < trace.steps[worst].log_probability ? index : worst), 0);
  if (trace.steps.length) show(doubt);
  const numbers = () => table(["step", "token", "probability", "log-probability", "rank", "entropy", "alternatives"],
    trace.steps.map((step, index) => [index + 1, step.token, probability(step.log_probability), step.log_probability, step.rank, step.entropy,
      step.alternatives.map((other) => `${other.token} ${exact(probability(other.log_probability))}`).join("  ")]));
  return figure("Tokens by probability.", "The stronger the colour, the less sure the model was; under doubtful tokens, what else was likely.",
    [h("div", { class: "chips", dir: backwards ? "rtl" : "ltr", role: "group", "aria-label": "target tokens" }, chips), panel], numbers);
};

export const nBest = (trace) =>
  figure("N best.", "Complete translations that the search kept, best first.",
    table(["", "translation", "log-probability", "score"], trace.hypotheses.map((one, index) => [index + 1, one.text, one.log_probability, one.score])));
