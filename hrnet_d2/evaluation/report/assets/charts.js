/* Charts as SVG. Colors are the page's variables, so that both modes need no redrawing. */

const WIDE = 440, HIGH = 250, LEFT = 40, RIGHT = 12, TOP = 12, BOTTOM = 34;

function frame(label, x, y) {
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label });
  const px = (v) => LEFT + ((v - x.min) / (x.max - x.min)) * (WIDE - LEFT - RIGHT);
  const py = (v) => HIGH - BOTTOM - ((v - y.min) / (y.max - y.min)) * (HIGH - TOP - BOTTOM);
  for (const v of y.ticks) {
    svg.append(
      s("line", { class: "rule", x1: LEFT, x2: WIDE - RIGHT, y1: py(v), y2: py(v) }),
      s("text", { x: LEFT - 6, y: py(v) + 4, "text-anchor": "end" }, y.format(v)),
    );
  }
  for (const v of x.ticks || []) {
    svg.append(s("text", { x: px(v), y: HIGH - BOTTOM + 15, "text-anchor": "middle" }, x.format(v)));
  }
  svg.append(
    s("line", { class: "axis", x1: LEFT, x2: WIDE - RIGHT, y1: HIGH - BOTTOM, y2: HIGH - BOTTOM }),
    s("text", { x: (LEFT + WIDE - RIGHT) / 2, y: HIGH - 4, "text-anchor": "middle" }, x.label),
  );
  return { svg, px, py };
}

const UNIT = { min: 0, max: 1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1], format: (v) => percent(v, 0) };
const SCORES = { min: 0, max: 1, ticks: [0, 0.2, 0.4, 0.6, 0.8, 1], format: (v) => v.toFixed(1), label: "score" };

const path = (points, px, py) =>
  points.map(([x, y], i) => `${i && points[i - 1][1] !== null ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");

/* series: name, color, dashed, points [x, y or null]; marks: x, y, color; line: x of a vertical rule. */
function lineChart({ title, words, x, y = UNIT, series, marks = [], line, note }) {
  const { svg, px, py } = frame(`${title}. ${words || ""}`, x, y);
  if (isNumber(line)) {
    svg.append(s("line", { x1: px(line), x2: px(line), y1: TOP, y2: HIGH - BOTTOM, style: { stroke: "var(--faint)", "stroke-dasharray": "3 3" } }));
  }
  for (const one of series) {
    const points = one.points.filter(([, v]) => isNumber(v));
    if (!points.length) continue;
    svg.append(
      s("path", {
        d: path(points, px, py),
        fill: "none",
        style: { stroke: one.color, "stroke-width": one.wide || 2, "stroke-dasharray": one.dashed ? "5 4" : "none", "stroke-linejoin": "round" },
      }),
    );
  }
  for (const mark of marks) {
    if (isNumber(mark.x) && isNumber(mark.y)) {
      svg.append(s("circle", { cx: px(mark.x), cy: py(mark.y), r: 5, style: { fill: mark.color, stroke: "var(--card)", "stroke-width": 2 } }));
    }
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = x.min + ((((event.clientX - box.left) / box.width) * WIDE - LEFT) / (WIDE - LEFT - RIGHT)) * (x.max - x.min);
    const lines = series.map((one) => {
      const near = one.points.reduce((best, p) => (Math.abs(p[0] - at) < Math.abs(best[0] - at) ? p : best), one.points[0]);
      return near ? `${one.name}: ${percent(near[1])}` : "";
    });
    if (at >= x.min && at <= x.max) tip.show(event, [`${x.label} ${x.tip(at)}`, ...lines].join("\n"));
    else tip.hide();
  });
  svg.addEventListener("pointerleave", tip.hide);
  return chartCard(title, words, svg, series, note);
}

function chartCard(title, words, svg, series, note) {
  const keys = series.map((one) =>
    h("span", {}, h("i", { class: one.dashed ? "dashed" : "", style: { "border-color": one.color } }), one.name),
  );
  return h("div", { class: "card" }, h("h3", {}, title), words ? h("p", { class: "lead" }, words) : null, svg,
    h("div", { class: "key" }, keys, note ? h("span", {}, note) : null));
}

/* Counts of correct detections upward and of false ones downward, on a square root scale. */
function scoreHistogram(right, wrong, line) {
  const merged = (counts) => Array.from({ length: counts.length / 2 }, (_, i) => counts[2 * i] + counts[2 * i + 1]);
  const up = merged(right), down = merged(wrong);
  const root = (v) => Math.sign(v) * Math.sqrt(Math.abs(v));
  const top = Math.max(1, ...up), bottom = Math.max(1, ...down);
  const most = Math.max(top, bottom);
  const step = 10 ** Math.floor(Math.log10(most));
  const ticks = [0, step / 4, step, 4 * step].map(Math.round).filter((v, i, all) => v <= most && all.indexOf(v) === i);
  const y = {
    min: -root(bottom), max: root(top), format: (v) => number(Math.round(v * v)),
    ticks: [...ticks.filter((v) => v && v <= bottom).map((v) => -root(v)), ...ticks.filter((v) => v <= top).map(root)],
  };
  const title = "Scores of detections";
  const words = "Correct ones upward, false ones downward, on a square root scale.";
  const { svg, px, py } = frame(`${title}. ${words}`, SCORES, y);
  const width = (WIDE - LEFT - RIGHT) / up.length;
  up.forEach((count, i) => {
    const at = px(i / up.length) + 0.5;
    const bars = [[count, py(root(count)), py(0), "var(--correct)", "correct"], [down[i], py(0), py(-root(down[i])), "var(--background)", "false"]];
    for (const [n, from, to, color, name] of bars) {
      if (!n) continue;
      svg.append(s("rect", { x: at, y: from, width: width - 1, height: Math.max(0.5, to - from), style: { fill: color },
        onpointermove: (event) => tip.show(event, `score ${(i / up.length).toFixed(2)}${dash}${((i + 1) / up.length).toFixed(2)}\n${number(n)} ${name}`),
        onpointerleave: tip.hide }));
    }
  });
  svg.append(s("line", { x1: px(line), x2: px(line), y1: TOP, y2: HIGH - BOTTOM, style: { stroke: "var(--faint)", "stroke-dasharray": "3 3" } }));
  return chartCard(title, words, svg, [{ name: "correct", color: "var(--correct)" }, { name: "false", color: "var(--background)" }]);
}

/* Precision of ten bins of scores against the diagonal of perfect calibration. */
function reliability(tasks) {
  const right = byBin(tasks.true), wrong = byBin(tasks.false), scores = byBin(tasks.score);
  const per = tasks.bins / 10;
  let distance = 0, all = 0;
  const bins = Array.from({ length: 10 }, (_, b) => {
    const of = (counts) => sum(counts.slice(b * per, (b + 1) * per));
    const t = of(right), n = t + of(wrong), total = of(scores);
    distance += Math.abs(total - t);
    all += n;
    return { n, score: n ? total / n : null, precision: n ? t / n : null };
  });
  const title = "Reliability";
  const words = all ? `How often detections of a score are correct. They are off by ${percent(distance / all)} points on average.` : "No detections.";
  const { svg, px, py } = frame(`${title}. ${words}`, SCORES, { ...UNIT, label: "" });
  const width = (WIDE - LEFT - RIGHT) / 10;
  bins.forEach((bin, i) => {
    if (!bin.n) return;
    svg.append(
      s("rect", { x: px(i / 10) + 2, width: width - 4, y: py(bin.precision), height: Math.max(1, py(0) - py(bin.precision)), rx: 2,
        style: { fill: "var(--accent)", "fill-opacity": bin.n < 10 ? 0.35 : 0.8 },
        onpointermove: (event) => tip.show(event, `${plural(bin.n, "detection")}\nmean score ${score(bin.score)}\n${percent(bin.precision)}\u00a0% correct`),
        onpointerleave: tip.hide }),
    );
  });
  svg.append(s("line", { x1: px(0), y1: py(0), x2: px(1), y2: py(1), style: { stroke: "var(--ink)", "stroke-dasharray": "5 4", "stroke-width": 1.5 } }));
  return chartCard(title, words, svg, [{ name: "% correct", color: "var(--accent)" }, { name: "perfectly calibrated", color: "var(--ink)", dashed: true }], "pale: fewer than 10 detections");
}

/* groups: label, note, values (of each run); values from 0 to 1. */
function barChart({ title, words, xLabel, groups, names }) {
  const y = { ...UNIT, max: Math.max(0.2, ...groups.flatMap((g) => g.values).filter(isNumber)) };
  y.ticks = UNIT.ticks.filter((v) => v <= y.max);
  const { svg, py } = frame(`${title}. ${words}`, { min: 0, max: 1, label: xLabel }, y);
  const colors = ["var(--accent)", "var(--other)"];
  const slot = (WIDE - LEFT - RIGHT) / groups.length;
  const width = Math.min(34, (slot * 0.72) / names.length);
  groups.forEach((group, i) => {
    const middle = LEFT + slot * (i + 0.5);
    group.values.forEach((value, j) => {
      if (!isNumber(value)) return;
      const x = middle + (j - names.length / 2) * width;
      svg.append(
        s("rect", { x: x + 1, y: py(value), width: width - 2, height: Math.max(1, py(0) - py(value)), rx: 2, style: { fill: colors[j] },
          onpointermove: (event) => tip.show(event, `${group.label}\n${names[j]}: ${percent(value)}\n${group.note}`), onpointerleave: tip.hide }),
        s("text", { class: "value", x: x + width / 2, y: py(value) - 3, "text-anchor": "middle" }, percent(value, 0)),
      );
    });
    svg.append(s("text", { x: middle, y: HIGH - BOTTOM + 14, "text-anchor": "middle" }, group.label));
  });
  return chartCard(title, words, svg, names.map((name, j) => ({ name, color: colors[j] })));
}
