/* The data of the page, and what is chosen. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const PICTURES = JSON.parse(document.getElementById("pictures").textContent);
const ONE = DATA.runs[0];
const TASK_NAMES = { bbox: "Boxes", segm: "Masks" };
const NAMES = { AP: "AP", AP50: "AP50", AP75: "AP75", APs: "small", APm: "medium", APl: "large", AR100: "AR" };
const KIND_WORDS = {
  classification: "on an object of another class",
  localization: "on the object, but not close enough",
  both: "near an object of another class",
  duplicate: "on an object that was found already",
  background: "on no object",
  missed: "objects that no detection is about",
};

/* What the reader has chosen; "-1" is all classes. "step" is the threshold in hundredths. */
const state = { task: Object.keys(ONE.tasks)[0], cls: -1, step: 0, view: "worst", kind: "", shown: 24 };
const listeners = [];

function choose(changes) {
  Object.assign(state, changes);
  for (const listener of listeners) listener(changes);
}

function onChange(names, draw) {
  listeners.push((changes) => {
    if (names.some((name) => name in changes)) draw();
  });
  draw();
}

const run = () => ONE.tasks[state.task];
const otherRun = () => (DATA.runs[1] ? DATA.runs[1].tasks[state.task] : undefined);
const threshold = () => state.step / run().bins;

/* A change in points, with a sign and a color. */
function change(now, before) {
  if (!isNumber(now) || !isNumber(before)) return "";
  const text = signed(now - before);
  return h("span", { class: text.startsWith("+") ? "up" : text.startsWith(MINUS) ? "down" : "" }, text);
}

const classes = () => (state.cls < 0 ? DATA.classes.map((_, k) => k) : [state.cls]);
const className = (k) => DATA.classes[k];
const sum = (values) => values.reduce((total, value) => total + value, 0);

/* Sums of the chosen classes' rows, by bin. */
function byBin(rows) {
  const total = new Array(run().bins).fill(0);
  for (const k of classes()) rows[k].forEach((value, i) => (total[i] += value));
  return total;
}

/* For each threshold, how many are at it or above it. */
function fromAbove(counts) {
  const result = counts.slice();
  for (let i = result.length - 2; i >= 0; i--) result[i] += result[i + 1];
  return result;
}

const objectCount = () => sum(classes().map((k) => DATA.objects[k]));

/* Precision, recall and F1 at each threshold for the chosen classes. */
function operating(tasks) {
  const right = fromAbove(byBin(tasks.true));
  const wrong = fromAbove(byBin(tasks.false));
  const total = objectCount();
  return right.map((t, i) => ({
    threshold: i / tasks.bins,
    true: t,
    false: wrong[i],
    precision: t + wrong[i] ? t / (t + wrong[i]) : null,
    recall: total ? t / total : null,
    f1: t + wrong[i] + total ? (2 * t) / (t + wrong[i] + total) : 0,
  }));
}

/* Mistakes of each kind at the threshold, for the chosen classes. */
function kindCounts(tasks, step) {
  return DATA.kinds.map((kind, number) => {
    let total = 0;
    for (const k of classes()) {
      const bins = tasks.kinds[k][number];
      if (kind === "missed") total += tasks.never[k] + sum(bins.slice(0, step));
      else total += sum(bins.slice(step));
    }
    return total;
  });
}
