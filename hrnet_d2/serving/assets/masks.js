/* Masks: from COCO's compressed run-length encoding to pictures of one color. */

const FINEST = 1024; /* pixels of the longer side of an image, for its masks: finer cannot be seen */

/* Lengths of runs down the columns, of background and object in turn. */
function runsOf(text) {
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift; /* the sign */
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/* The part of a mask around the object, no finer than needed: left, top, width, height and scale of
   its pixels, and 0 or 1 for each of them. */
function rasterOf({ size: [height, width], counts }) {
  const scale = Math.min(1, FINEST / Math.max(height, width));
  const columns = Math.max(1, Math.round(width * scale)), rows = Math.max(1, Math.round(height * scale));
  const spans = []; /* column, first row, last row + 1 */
  let left = columns, right = 0, top = rows, bottom = 0, position = 0;
  runsOf(counts).forEach((length, i) => {
    const end = position + length;
    if (i % 2) {
      for (let x = Math.floor(position / height); x * height < end; x++) {
        const column = Math.min(columns - 1, Math.floor(((x + 0.5) * columns) / width));
        if (Math.floor(((column + 0.5) * width) / columns) !== x) continue; /* another column of the image stands for it */
        const from = Math.max(position - x * height, 0), to = Math.min(end - x * height, height);
        const first = Math.ceil((from * rows) / height - 0.5), last = Math.ceil((to * rows) / height - 0.5);
        if (last <= first) continue;
        spans.push([column, first, last]);
        left = Math.min(left, column); right = Math.max(right, column + 1);
        top = Math.min(top, first); bottom = Math.max(bottom, last);
      }
    }
    position = end;
  });
  if (right <= left) return null;
  const w = right - left, pixels = new Uint8Array(w * (bottom - top));
  for (const [column, first, last] of spans) for (let y = first; y < last; y++) pixels[(y - top) * w + column - left] = 1;
  return { left: left / columns, top: top / rows, width: w, height: bottom - top, columns, rows, pixels };
}

const INSIDE = 105, EDGE = 235; /* opacity, of 255 */

/* A canvas of the mask, and where it belongs as shares of the image. */
function maskPicture(rle, [red, green, blue]) {
  const raster = rasterOf(rle);
  if (!raster) return null;
  const { width, height, pixels } = raster;
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!pixels[i]) continue;
      const inner = at(x - 1, y) && at(x + 1, y) && at(x, y - 1) && at(x, y + 1);
      image.data.set([red, green, blue, inner ? INSIDE : EDGE], 4 * i);
    }
  }
  context.putImageData(image, 0, 0);
  return { canvas, left: raster.left, top: raster.top, width: width / raster.columns, height: height / raster.rows };
}
