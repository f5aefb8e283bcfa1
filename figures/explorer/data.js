// What the page shows, as Python packed it (figures/explorer/pack.py): arrays of 16 bits, compressed, read where they lie.

const TYPES = { uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, uint32: Uint32Array };
const NOTHING = 65535; // of the code "log": smaller than can be told

const CODES = {
  log: (v, scale) => (v === NOTHING ? 0 : 2 ** (-v * scale)),
  fixed: (v, scale) => v * scale,
  byte: (v, scale) => v * scale - 1,
  plain: (v) => v,
};

/** Bytes of a text in base64. */
function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function decompress(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Some samples of all models. */
export class Pack {
  /** Read what `Session.samples` in Python made. */
  static async of(raw) {
    const pack = Object.assign(new Pack(), raw);
    const buffer = await decompress(fromBase64(raw.data));
    pack.data = null;
    pack.arrays = {};
    for (const [name, { type, shape, offset, code, scale }] of Object.entries(raw.index)) {
      const length = shape.reduce((a, b) => a * b, 1);
      pack.arrays[name] = { values: new TYPES[type](buffer, offset, length), shape, decode: CODES[code], scale };
    }
    return pack;
  }

  /** Whether there is such an array. */
  has(name) {
    return name in this.arrays;
  }

  /** A number of an array, by its place in it. */
  number(name, ...place) {
    const { values, shape, decode, scale } = this.arrays[name];
    let at = 0;
    for (let i = 0; i < shape.length; i++) at = at * shape[i] + (place[i] ?? 0);
    return decode(values[at], scale);
  }

  /** A picture of an array, its last three axes being channels, rows, columns: row and column to the channels of a pixel. */
  picture(name, ...place) {
    const { values, shape, decode, scale } = this.arrays[name];
    const [channels, height, width] = shape.slice(-3);
    let start = 0;
    for (const [i, n] of place.entries()) start = start * shape[i] + n;
    start *= channels * height * width;
    return (y, x) => {
      const found = [];
      for (let c = 0; c < channels; c++) found.push(decode(values[start + (c * height + y) * width + x], scale));
      return found;
    };
  }

  /** The training image that is `index`-th here: number, file, class and pixels. */
  source(index) {
    return { index, number: this.used[index], name: this.names[index], label: this.labels[index], colour: this.picture("images", index) };
  }
}

/** One model at one noise level of one sample. */
export class Moment {
  constructor(pack, model, whole, row, level) {
    Object.assign(this, { pack, model, whole, row, level });
    [this.height, this.width] = pack.arrays.images.shape.slice(-2);
    // Of a pixel, by row and column: noisy, the guess of the clean one, and what its own patch contributes to that.
    this.noisy = pack.picture(this.name("x"), row, level);
    this.guess = pack.picture(this.name("mean"), row, level);
    this.local = this.attends ? pack.picture(this.name("local"), row, level) : null;
  }

  name(what) {
    return `${this.model}.${what}`;
  }

  /** One number that Python tells of a pixel; of models that see the whole image, of all pixels. */
  told(what, y, x, ...more) {
    return this.pack.number(this.name(what), this.row, this.level, ...(this.whole ? [0, 0] : [y, x]), ...more);
  }

  /** Row and column in a training image; where the whole image is seen, that is a shift of this pixel. */
  place(number, y, x) {
    const [v, u] = [Math.floor(number / this.width), number % this.width];
    return this.whole ? [(y + v) % this.height, (x + u) % this.width] : [v, u];
  }

  /** The heaviest training patches of a pixel, without those that weigh nothing. */
  patches(y, x) {
    const top = this.pack.arrays[this.name("weight")].shape.at(-1);
    const found = Array.from({ length: top }, (_, k) => ({
      weight: this.told("weight", y, x, k),
      count: this.told("count", y, x, k),
      source: this.pack.source(this.told("image", y, x, k)),
      place: this.place(this.told("place", y, x, k), y, x),
    }));
    return found.filter((patch) => patch.weight > 0);
  }

  /** Effective number of training patches behind a pixel. */
  effective(y, x) {
    return 1 / this.told("effective", y, x);
  }

  /** Where the mosaic takes a pixel from: index of the training image and place in it. */
  origin(y, x) {
    return { index: this.told("mosaic", y, x), place: this.place(this.told("from", y, x), y, x) };
  }

  /** Whether the model attends to pixels. */
  get attends() {
    return this.pack.has(this.name("share"));
  }

  /** The pixels that a pixel attends to, heaviest first. */
  attention(y, x) {
    const name = this.name("share");
    const pixel = y * this.width + x;
    return Array.from({ length: this.pack.arrays[name].shape.at(-1) }, (_, k) => {
      const place = this.pack.number(this.name("attended"), this.row, this.level, pixel, k);
      return { share: this.pack.number(name, this.row, this.level, pixel, k), place: [Math.floor(place / this.width), place % this.width] };
    });
  }

  /** Height and width of the patch that a pixel sees; null where it sees the whole image. */
  get window() {
    return this.pack.patches[this.model]?.[this.level] ?? null;
  }

  /** Root mean square difference of the guesses of a pixel. */
  difference(other, y, x) {
    const [a, b] = [this.guess(y, x), other.guess(y, x)];
    return Math.sqrt(a.reduce((sum, v, c) => sum + (v - b[c]) ** 2, 0) / a.length);
  }
}
