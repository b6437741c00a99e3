/* The sections, and what redraws them. */

function classChoice(id) {
  const select = h("select", { id, onchange: (e) => choose({ cls: Number(e.target.value), shown: 24 }) },
    h("option", { value: -1 }, "all classes"), DATA.classes.map((name, k) => h("option", { value: k }, name)));
  listeners.push((changes) => { if ("cls" in changes) select.value = state.cls; });
  return h("label", {}, "Class", select);
}

function drawSummary() {
  const tasks = run(), other = otherRun(), now = tasks.metrics;
  const before = (name) => (other ? other.metrics[name] : undefined);
  const best = operatingOfAll(tasks)[Math.round(tasks.threshold * tasks.bins)];
  const costs = DATA.kinds.map((kind) => ({ kind, cost: tasks.cost[kind] })).sort((a, b) => b.cost - a.cost);
  const scale = Math.max(0.01, ...costs.map((c) => c.cost));
  const compared = other ? h("p", { class: "words" }, h("b", {}, ONE.name), ` against ${DATA.runs[1].name}, whose AP is ${percent(before("AP"))}.`) : null;
  const words = !isNumber(best.precision) && !tasks.detections
    ? ["There is no detection."]
    : !best.true
      ? ["No detection is correct at an IoU of 0.5."]
      : ["At scores from ", h("b", {}, score(tasks.threshold)), ", where F1 is best, ", h("b", {}, `${percent(best.recall, 0)}\u00a0%`), " of the objects are found and ", h("b", {}, `${percent(best.precision, 0)}\u00a0%`), " of the detections are correct."];
  replace($("summary"), h("div", { class: "hero" },
    h("div", { class: "card" },
      h("div", { class: "big" }, h("b", {}, percent(now.AP)), h("span", {}, state.task === "segm" ? "mask AP " : "box AP ", change(now.AP, before("AP")))),
      h("dl", { class: "stats" }, ["AP50", "AP75", "APs", "APm", "APl", "AR100"].map((name) =>
        h("div", {}, h("dt", {}, NAMES[name]), h("dd", {}, percent(now[name]), other ? h("small", {}, change(now[name], before(name))) : null)))),
      h("p", { class: "words" }, words), compared),
    h("div", { class: "card" }, h("h3", {}, "Where AP50 is lost"),
      h("p", { class: "lead" }, `Points of AP50 (now ${percent(tasks.ap50)}) that correcting each kind of mistake alone would bring.`),
      h("div", { class: "bars" }, costs.map(({ kind, cost }) => [
        h("span", {}, kind),
        h("div", { class: "track" }, h("div", { class: "fill", style: { width: `${(100 * cost) / scale}%`, background: `var(--${kind})` } })),
        h("span", { class: "count" }, percent(cost), other ? h("small", {}, ` (${percent(other.cost[kind])})`) : null),
      ])))));
  $("subtitle").textContent = `${plural(DATA.images.length, "image")}, ${plural(sum(DATA.objects), "object")}, ${plural(DATA.classes.length, "class", "classes")}, ` +
    `${plural(tasks.detections, "detection")} \u00b7 ${ONE.name}${DATA.runs[1] ? ` against ${DATA.runs[1].name}` : ""}`;
}

function operatingOfAll(tasks) {
  const chosen = state.cls;
  state.cls = -1;
  const points = operating(tasks);
  state.cls = chosen;
  return points;
}

function drawControls() {
  const slider = h("input", { type: "range", min: 0, max: run().bins - 1, step: 1, id: "threshold", "aria-label": "Score threshold",
    oninput: (e) => choose({ step: Number(e.target.value) }) });
  const output = h("output", { for: "threshold" });
  const best = h("button", { type: "button", class: "plain", onclick: () => {
    const points = operating(run());
    choose({ step: points.reduce((top, p, i) => (p.f1 > points[top].f1 ? i : top), 0) });
  } }, "Best F1");
  replace($("controls"), classChoice("class-choice"), h("label", {}, "Scores from", slider, output), best);
  const show = () => { slider.value = state.step; slider.setAttribute("aria-valuetext", score(threshold())); output.textContent = score(threshold()); };
  listeners.push((changes) => { if ("step" in changes || "task" in changes) show(); });
  show();
}

function drawScores() {
  const tasks = run(), other = otherRun(), points = operating(tasks), at = points[state.step];
  const what = state.cls < 0 ? "all classes" : className(state.cls);
  $("threshold-words").textContent = `At scores from ${score(threshold())}, ${what}: ${number(at.true)} correct and ${number(at.false)} false detections; ` +
    `precision ${percent(at.precision)}\u00a0%, recall ${percent(at.recall)}\u00a0%, F1 ${percent(at.f1)}\u00a0%.`;
  const x = { ...SCORES, label: "threshold", tip: (v) => v.toFixed(2) };
  const of = (key) => points.map((p) => [p.threshold, p[key]]);
  const curve = (t, name) => {
    const rows = classes().map((k) => t.curves[name][k]).filter((row) => row[0] >= 0);
    return rows.length ? rows[0].map((_, i) => [i / 100, sum(rows.map((row) => row[i])) / rows.length]) : [];
  };
  const recall = { min: 0, max: 1, ticks: UNIT.ticks, format: UNIT.format, label: "recall", tip: (v) => percent(v, 0) };
  const curves = [
    { name: "IoU 0.5", color: "var(--accent)", points: curve(tasks, "50") },
    { name: "IoU 0.75", color: "var(--both)", points: curve(tasks, "75") },
    { name: "mean of 0.5 to 0.95", color: "var(--ink)", points: curve(tasks, "mean") },
  ];
  if (other) curves.push({ name: `${DATA.runs[1].name}, IoU 0.5`, color: "var(--other)", dashed: true, points: curve(other, "50") });
  const f1 = [
    { name: "F1", color: "var(--ink)", wide: 2.5, points: of("f1") },
    { name: "precision", color: "var(--accent)", points: of("precision") },
    { name: "recall", color: "var(--other)", points: of("recall") },
  ];
  if (other) f1.push({ name: `F1 of ${DATA.runs[1].name}`, color: "var(--faint)", dashed: true, points: operating(other).map((p) => [p.threshold, p.f1]) });
  replace($("score-charts"),
    lineChart({ title: "Precision and recall by threshold", words: "At an IoU of 0.5; the dashed rule is the chosen threshold.", x, series: f1, line: threshold(), marks: [{ x: threshold(), y: at.f1, color: "var(--ink)" }] }),
    lineChart({ title: "Precision and recall", words: `Precision as COCO interpolates it, ${state.cls < 0 ? "mean of the classes" : what}.`, x: recall, series: curves,
      marks: state.cls < 0 ? [] : [{ x: at.recall, y: at.precision, color: "var(--accent)" }] }),
    scoreHistogram(byBin(tasks.true), byBin(tasks.false), threshold()),
    reliability(tasks));
}

function drawKinds() {
  const tasks = run(), other = otherRun(), counts = kindCounts(tasks, state.step);
  const before = other ? kindCounts(other, state.step) : null;
  const scale = Math.max(1, ...counts, ...(before || []));
  replace($("kinds"), h("div", { class: "card bars" }, DATA.kinds.map((kind, i) => [
    h("div", {}, h("button", { type: "button", class: "link", onclick: () => {
      choose(kind === "missed" ? { view: "missed", kind: "", shown: 24 } : { view: "confident", kind: String(i), shown: 24 });
      $("gallery").scrollIntoView();
    } }, kind), " ", h("small", {}, KIND_WORDS[kind])),
    h("div", { class: "track" }, h("div", { class: "fill", style: { width: `${(100 * counts[i]) / scale}%`, background: `var(--${kind})` } })),
    h("span", { class: "count" }, number(counts[i]), before ? h("small", {}, ` (${number(before[i])})`) : null),
  ])));
}

function drawConditions() {
  const tasks = run(), other = otherRun();
  const names = [ONE.name, ...(other ? [DATA.runs[1].name] : [])];
  const find = (rows, row) => rows.find((r) => r.low === row.low);
  const groups = (key, label, note) => tasks[key].map((row) => ({
    label: label(row), note: note(row), values: [row.AP, ...(other ? [(find(other[key], row) || {}).AP] : [])],
  }));
  replace($("condition-charts"),
    barChart({ title: "AP by object size", words: "The side of a square with the area of the object, in pixels.", xLabel: "pixels", names,
      groups: groups("bySize", (r) => (r.high === null ? `${r.low}+` : `${r.low}${dash}${r.high}`), (r) => plural(r.objects, "object")) }),
    barChart({ title: "AP by crowding", words: "By the number of objects in the image.", xLabel: "objects in the image", names,
      groups: groups("byCrowding", (r) => (r.high === null ? `${r.low}+` : r.low === r.high ? `${r.low}` : `${r.low}${dash}${r.high}`), (r) => `${plural(r.objects, "object")} in ${plural(r.images, "image")}`) }));
}

const GLOSSARY = {
  "AP": "Average precision as COCO defines it: the mean over ten IoU thresholds (0.5 to 0.95) and all classes, in percent. AP50 and AP75 take one IoU; small, medium and large are objects below 32\u00b2, up to 96\u00b2 and above 96\u00b2 pixels; AR is the recall with 100 detections per image.",
  "Correct": "A detection that finds an object of its class with an IoU of 0.5 or more. Detections choose by descending score, so this holds at every threshold.",
  "Where AP50 is lost": "The kinds of mistakes and their costs follow TIDE (Bolya et al., ECCV 2020): classification, localization (IoU 0.1 to 0.5), both, duplicate, background, missed. Costs do not add up: each is with the other mistakes left as they are.",
  "Missed": "No detection found the object, and no classification or localization mistake is about it.",
  "Confusion": "Detections choose objects by descending score without regard to class (an object of their own class first), with an IoU of 0.5 or more. So a false detection of another class with a higher score takes the object, and the diagonal may be below the number of correct detections.",
  "Reliability": "A calibrated detector is correct in 70 % of its detections with a score of 0.7. The average distance is the expected calibration error of ten bins.",
};

/* A page's address may choose: ?theme=dark&task=segm&view=confident&class=cat */
function start() {
  themes();
  const tasks = Object.keys(ONE.tasks);
  if (tasks.includes(ADDRESS.get("task"))) state.task = ADDRESS.get("task");
  if (ADDRESS.get("view") in VIEWS) state.view = ADDRESS.get("view");
  state.cls = DATA.classes.indexOf(ADDRESS.get("class"));
  replace($("tasks"), tasks.map((task) => h("button", { type: "button", onclick: () => choose({ task, step: Math.round(ONE.tasks[task].threshold * ONE.tasks[task].bins) }) }, TASK_NAMES[task])));
  state.step = Math.round(run().threshold * run().bins);
  onChange(["task"], () => [...$("tasks").children].forEach((b, i) => b.setAttribute("aria-pressed", String(tasks[i] === state.task))));
  $("tasks").hidden = tasks.length < 2;
  drawControls();
  galleryControls();
  onChange(["task"], drawSummary);
  onChange(["task", "cls"], classTable);
  onChange(["task", "cls", "step"], drawScores);
  onChange(["task", "cls", "step"], drawKinds);
  onChange(["task", "cls", "step"], confusionTable);
  onChange(["task"], drawConditions);
  onChange(["task"], comparisonTable);
  onChange(["task", "cls", "step", "kind", "view", "shown"], drawGallery);
  replace($("glossary"), Object.entries(GLOSSARY).map(([term, words]) => [h("dt", {}, term), h("dd", {}, words)]));
  document.documentElement.dataset.ready = "yes";
}

start();
