// What was chosen at each step, how sure the model was, and what else it thought of.
import { bar, exact, figure, forth, h, percent, roving, rtl } from "./base.js";
import { table } from "./table.js";

const DOUBTFUL = 0.5; // below this probability, alternatives stand under a token
// The mark of a space before a token is there, but quiet.
const piece = (token) => [token.startsWith("▁") && h("span", { class: "space" }, "▁"), token.replace(/^▁/, "")];
const share = (one) => percent(Math.exp(one.log_probability));

const chip = (step) => {
  const doubtful = Math.exp(step.log_probability) < DOUBTFUL || step.rank > 1;
  const others = doubtful ? step.alternatives.filter((other) => other.token !== step.token).slice(0, 2) : [];
  const label = `${step.token}, ${share(step)}`;
  return h("span", { class: "chip", dir: "ltr", role: "img", "--w": 1 - Math.exp(step.log_probability), "aria-label": label },
    h("bdi", { class: "token" }, piece(step.token)), h("small", {}, share(step), step.rank > 1 && ` · rank ${step.rank}`),
    others.map((other) => h("small", {}, h("bdi", {}, piece(other.token)), ` ${share(other)}`)));
};

export const tokens = (trace) => {
  const panel = h("output", { class: "panel", "aria-live": "polite" });
  const show = (index) => {
    const step = trace.steps[index];
    const [chance, rank, entropy] = [Math.exp(step.log_probability), step.rank, step.entropy].map(exact);
    const alternative = (other) =>
      bar(piece(other.token), Math.exp(other.log_probability), share(other), { chosen: other.token === step.token });
    panel.replaceChildren(
      h("p", {}, h("bdi", {}, piece(step.token)), `: probability ${chance}, rank ${rank}, entropy ${entropy} nats`),
      h("div", { class: "bars" }, step.alternatives.map(alternative)));
  };
  const chips = trace.steps.map(chip);
  const backwards = rtl(trace.target.text);
  roving(chips, (key, index) => index + forth(key, backwards), show, () => {});
  const chances = trace.steps.map((step) => step.log_probability);
  show(chances.indexOf(Math.min(...chances)));
  const row = h("div", { class: "chips", dir: backwards ? "rtl" : "ltr", role: "group", "aria-label": "target tokens" }, chips);
  const numbers = () => table(["step", "token", "probability", "log-probability", "rank", "entropy", "alternatives"],
    trace.steps.map((step, index) => [index + 1, step.token, Math.exp(step.log_probability), step.log_probability, step.rank, step.entropy,
      step.alternatives.map((other) => `${other.token} ${exact(Math.exp(other.log_probability))}`).join("  ")]));
  return figure("Tokens by probability.", "The stronger the colour, the less sure the model was.", [row, panel], numbers);
};

export const nBest = (trace) => {
  const rows = trace.hypotheses.map((one, index) => [index + 1, one.text, one.log_probability, one.score]);
  const names = ["", "translation", "log-probability", "score"];
  return figure("N best.", "Complete translations that the search kept, best first.", table(names, rows));
};
