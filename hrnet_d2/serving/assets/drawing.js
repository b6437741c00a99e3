/* Detections over an image, on a canvas: the page's own and the one that is downloaded. */

/* A class has the same bright color wherever it is drawn. */
function colorOf(number) {
  const hue = (number * 137.508 + 200) % 360, saturation = 0.86, light = 0.62;
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - saturation * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

const css = ([red, green, blue], alpha = 1) => `rgba(${red}, ${green}, ${blue}, ${alpha})`;

/* items: with color, box, name, score, mask; scale: canvas pixels of an image pixel; unit: canvas
   pixels of a line one pixel wide; chosen: the item that the others make way for, or null. */
function drawItems(context, items, { width, height, scale, unit, show, chosen }) {
  const order = items.slice().sort((a, b) => a.score - b.score);
  if (show.masks) {
    for (const item of order) {
      if (!item.mask) continue;
      item.picture = item.picture || maskPicture(item.mask, item.color);
      const p = item.picture;
      if (!p) continue;
      context.globalAlpha = chosen && chosen !== item ? 0.15 : 1;
      context.imageSmoothingEnabled = p.canvas.width < p.width * width * scale;
      context.drawImage(p.canvas, p.left * width * scale, p.top * height * scale, p.width * width * scale, p.height * height * scale);
    }
  }
  if (show.boxes) {
    for (const item of order) {
      const [x, y, w, h2] = item.box.map((v) => v * scale);
      context.globalAlpha = chosen && chosen !== item ? 0.25 : 1;
      for (const [wide, color] of [[3.6, "rgba(0, 0, 0, .55)"], [item === chosen ? 3 : 2, css(item.color)]]) {
        context.lineWidth = wide * unit;
        context.strokeStyle = color;
        context.strokeRect(x, y, w, h2);
      }
    }
  }
  context.globalAlpha = 1;
  if (show.labels) drawLabels(context, chosen ? [chosen] : order.reverse(), { scale, unit, wide: width * scale });
}

/* The highest scores first; a label that would cover another one is left out. */
function drawLabels(context, items, { scale, unit, wide }) {
  const size = (wide < 500 * unit ? 10 : 12.5) * unit, pad = 4 * unit, high = size + 2 * pad - 2 * unit;
  context.font = `600 ${size}px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif`;
  context.textBaseline = "middle";
  const taken = [];
  for (const item of items) {
    const name = item.name.length > 28 ? `${item.name.slice(0, 27)}\u2026` : item.name;
    const text = `${name} ${score(item.score)}`;
    const w = context.measureText(text).width + 2 * pad;
    const [bx, by] = item.box.map((v) => v * scale);
    const x = Math.max(0, Math.min(bx - unit, wide - w)), y = by >= high ? by - high : by;
    if (taken.some((t) => x < t.x + t.w && t.x < x + w && y < t.y + high && t.y < y + high)) continue;
    taken.push({ x, y, w });
    context.fillStyle = css(item.color, 0.94);
    context.beginPath();
    context.roundRect(x, y, w, high, 3 * unit);
    context.fill();
    context.fillStyle = "#101215";
    context.fillText(text, x + pad, y + high / 2 + unit / 2);
  }
}
