// A video: all its frames at the requested size, played at any rate.

import { milliseconds, request } from "./api.js";

export class ClipView {
  key = "clip";

  constructor(element, { report, fail }) {
    Object.assign(this, { report, fail });
    this.canvas = element.appendChild(document.createElement("canvas"));
    this.canvas.className = "clip";
    this.bar = element.appendChild(document.createElement("div"));
    this.bar.className = "play";
    this.button = this.bar.appendChild(Object.assign(document.createElement("button"), { type: "button", textContent: "pause" }));
    this.slider = this.bar.appendChild(Object.assign(document.createElement("input"), { type: "range", min: 0, max: 0, value: 0 }));
    this.slider.setAttribute("aria-label", "Frame");
    this.isPlaying = true;
    this.at = 0;
    this.rate = 8;
    this.button.addEventListener("click", () => this.play(!this.isPlaying));
    this.slider.addEventListener("input", () => { this.play(false); this.at = Number(this.slider.value); this.draw(); });
    const tick = (now) => {
      if (this.isPlaying && this.frames) {
        this.at = (this.at + (now - (this.last ?? now)) / 1000 * this.rate) % this.frames.length;
        this.draw();
      }
      this.last = now;
      this.request = requestAnimationFrame(tick);
    };
    this.request = requestAnimationFrame(tick);
  }

  play(isPlaying) {
    this.isPlaying = isPlaying;
    this.button.textContent = isPlaying ? "pause" : "play";
  }

  setRate(rate) {
    this.rate = rate;
  }

  async show(parameters) {
    this.abort();
    const { signal } = this.controller = new AbortController();
    try {
      const response = await request("clip", parameters, signal);
      const data = new Uint8Array(await response.arrayBuffer());
      if (signal.aborted) return;
      this.fill(data, response.headers.get("x-shape").split(",").map(Number));
      this.report(milliseconds(response));
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    }
  }

  fill(data, [count, rows, columns, channels]) {
    const pixels = rows * columns;
    this.frames = Array.from({ length: count }, (_, frame) => {
      const image = new ImageData(columns, rows);
      for (let index = 0; index < pixels; index++) {
        const from = (frame * pixels + index) * channels;
        for (let c = 0; c < 3; c++) image.data[4 * index + c] = data[from + (channels === 1 ? 0 : c)];
        image.data[4 * index + 3] = 255;
      }
      return image;
    });
    [this.canvas.width, this.canvas.height] = [columns, rows];
    this.slider.max = count - 1;
    this.at %= count;
    this.draw();
  }

  draw() {
    if (!this.frames) return;
    const frame = Math.floor(this.at);
    this.canvas.getContext("2d").putImageData(this.frames[frame], 0, 0);
    if (this.isPlaying) this.slider.value = frame;
  }

  place() {}

  home() {
    this.at = 0;
    this.draw();
  }

  /** End the request under way. */
  abort() {
    this.controller?.abort();
  }

  destroy() {
    cancelAnimationFrame(this.request);
    this.abort();
    this.canvas.remove();
    this.bar.remove();
  }
}
