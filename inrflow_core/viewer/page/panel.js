// One run on the page: its weights, its view, its times, its downloads, and the strip of growing steps.

import { address, duration, functionOf, milliseconds, request } from "./api.js";
import { CloudView, tintAt } from "./cloud_view.js";
import { ImageView } from "./image_view.js";

const STRIP = [1, 2, 3, 5, 8, 12, 20, 30, 50, 100, 250, 500];
const NAMES = { function: "function", bicubic: "bicubic enlargement", pixels: "training pixels" };

export class Panel {
  /** `page` has the state, the runs and what to do where this panel changes them. */
  constructor(page, own) {
    Object.assign(this, { page, own });
    this.element = document.getElementById("panel").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.element.querySelector(`.${name}`);
    this.views = [];
    this.times = {};
    this.fillRuns();
    this.part("run").addEventListener("change", (event) => {
      Object.assign(own, { run: Number(event.target.value), step: "", ema: "" });
      page.change();
    });
    for (const [name, key] of [["checkpoint", "step"], ["ema", "ema"]]) {
      this.part(name).addEventListener("change", (event) => { own[key] = event.target.value; page.change(); });
    }
    this.part("close").addEventListener("click", () => page.close(this));
    this.part("suffix").addEventListener("change", () => this.link());
    for (const name of ["pointerenter", "focus"]) this.part("download").addEventListener(name, () => this.link());
    document.getElementById("panels").append(this.element);
  }

  get run() { return this.page.info.runs[this.own.run]; }

  /** Show what the state says; views stay where they are of the same kind. */
  show() {
    const { state } = this.page;
    this.fillWeights();
    const kinds = this.run.view === "image" ? ["function", ...(state.compare === "none" ? [] : [state.compare])] : ["cloud"];
    if (kinds.join() !== this.kinds?.join()) this.makeViews(kinds);
    const parameters = functionOf(state, this.own);
    const key = JSON.stringify([parameters, kinds]);
    if (key !== this.shown) {
      this.shown = key;
      this.times = {};
      this.record(parameters);
      for (const view of this.views) view.show(parameters, this.run, state.points);
    }
    for (const view of this.views) {
      view.setNumber?.(state.points);
      view.setDot?.(dotSize(state.dot));
      view.setGrid?.(state.grid);
    }
    this.part("close").hidden = state.panels.length < 2;
    this.showStrip();
    this.link();
  }

  fillRuns() {
    const options = this.page.info.runs.map((run, index) => new Option(run.name, index));
    this.part("run").replaceChildren(...options);
    this.part("run").value = this.own.run;
  }

  fillWeights() {
    const { checkpoints, best, emas } = this.run;
    const names = checkpoints.map((step) => new Option(`step ${step.toLocaleString("en")}${step === best ? " (best)" : ""}`, step));
    names.reverse();
    if (names.length) names[0].value = "";
    this.fill("checkpoint", names, this.own.step, checkpoints.length < 2);
    const decays = emas.map((decay) => new Option(decay ? `EMA ${decay}` : "no EMA", decay));
    if (decays.length) decays[0].value = "";
    this.fill("ema", decays, this.own.ema, emas.length < 2);
    const suffixes = this.run.suffixes.map((suffix) => new Option(suffix, suffix));
    const current = this.part("suffix").value;
    this.part("suffix").replaceChildren(...suffixes);
    if (this.run.suffixes.includes(current)) this.part("suffix").value = current;
    this.part("run").hidden = false;
  }

  fill(name, options, value, isHidden) {
    this.part(name).replaceChildren(...options);
    this.part(name).value = value;
    this.part(name).hidden = isHidden;
  }

  makeViews(kinds) {
    for (const view of this.views) view.destroy();
    this.kinds = kinds;
    this.shown = null;
    const elements = kinds.map((kind) => {
      const element = document.createElement("div");
      element.className = "view";
      if (kinds.length > 1) element.append(Object.assign(document.createElement("span"), { className: "name", textContent: NAMES[kind] }));
      return element;
    });
    this.part("views").replaceChildren(...elements);
    this.views = kinds.map((kind, index) => this.makeView(kind, elements[index]));
  }

  makeView(kind, element) {
    const common = {
      info: this.page.info,
      report: (number) => { if (kind === "function" || kind === "cloud") this.time("view", number); },
      fail: (error) => this.fail(error),
      move: (view, where) => this.page.moved(view, where),
    };
    if (kind === "cloud") {
      const view = new CloudView(element, { ...common, count: (number) => this.page.counted(this, number) });
      if (this.page.state.pose) view.place(this.page.state.pose);
      return view;
    }
    const view = new ImageView(element, { ...common, kind });
    if (this.page.state.zoom) view.place(this.page.state.zoom);
    return view;
  }

  /** Ask for the class and the time of the recording. */
  async record(parameters) {
    this.recording?.abort();
    const { signal } = this.recording = new AbortController();
    this.part("foot").classList.remove("bad");
    this.part("what").textContent = "recording ...";
    this.part("time").textContent = "";
    try {
      const answer = await (await request("record", parameters, signal)).json();
      const { options } = answer;
      const words = [answer.class ?? (answer.label === null ? null : answer.label < 0 ? "no class" : `class ${answer.label}`)];
      if (options.sampler) words.push(options.sampler.split(" ")[0].replaceAll("_", "-"));
      if (options.guidance && Number(options.guidance) !== 1) words.push(`guidance ${options.guidance}`);
      this.part("what").textContent = words.filter(Boolean).join(", ");
      this.time("record", answer.milliseconds);
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    }
  }

  time(name, number) {
    if (number === null) return;
    this.times[name] = number;
    const { record, view } = this.times;
    const words = [];
    if (record !== undefined) words.push(`recorded in ${duration(record)}`);
    if (view !== undefined) words.push(`${this.run.view === "image" ? "tile" : "points"} in ${duration(view)}`);
    this.part("time").textContent = words.join(", ");
  }

  fail(error) {
    this.part("foot").classList.add("bad");
    this.part("what").textContent = error.message;
    this.part("time").textContent = "";
  }

  /** The address of the file of what is shown. */
  link() {
    const suffix = this.part("suffix").value;
    if (!suffix) return;
    const parameters = { ...functionOf(this.page.state, this.own), suffix };
    const [view] = this.views;
    if (this.run.view === "cloud") parameters.points = this.page.state.points;
    if (this.run.view === "image" && view?.viewer.world.getItemCount()) {
      const { window: shown, rows, columns } = view.window();
      const scale = Math.min(1, this.page.info.max_side / Math.max(rows, columns));
      if (shown[2] > shown[0] && shown[3] > shown[1]) {
        parameters.window = shown.join(",");
        parameters.resolution = [rows, columns].map((count) => Math.max(1, Math.floor(count * scale))).join("x");
      }
    }
    this.part("download").href = address("file", parameters);
  }

  /** Thumbnails of the same seed with growing steps; a click takes the steps. */
  showStrip() {
    const { state, info } = this.page;
    const strip = this.part("steps");
    strip.hidden = !state.strip || !this.run.takes_steps;
    const parameters = functionOf(state, this.own, { steps: "" });
    const key = JSON.stringify(parameters);
    const usual = this.run.steps;
    if (strip.hidden) { this.stripController?.abort(); this.stripShown = null; return; }
    const mark = () => {
      for (const button of strip.children) button.setAttribute("aria-pressed", String(button.value === String(state.steps || usual)));
    };
    if (key === this.stripShown) { mark(); return; }
    this.stripShown = key;
    this.stripController?.abort();
    const { signal } = this.stripController = new AbortController();
    const counts = [...new Set([...STRIP.filter((count) => count < (usual ?? 50)), usual ?? 50])].filter((count) => count <= info.most_steps);
    strip.replaceChildren(...counts.map((count) => this.stripButton(count)));
    mark();
    this.fillStrip([...strip.children], parameters, signal);
  }

  stripButton(count) {
    const button = Object.assign(document.createElement("button"), { type: "button", value: String(count) });
    const words = Object.assign(document.createElement("span"), { textContent: count === 1 ? "1 step" : `${count} steps` });
    const drawing = document.createElement(this.run.view === "image" ? "img" : "canvas");
    if (drawing instanceof HTMLImageElement) drawing.alt = "";
    button.append(drawing, words);
    button.addEventListener("click", () => { this.page.state.steps = String(count); this.page.change(); });
    return button;
  }

  async fillStrip(buttons, parameters, signal) {
    for (const button of buttons) {
      const own = { ...parameters, steps: button.value };
      try {
        if (this.run.view === "image") {
          const response = await request("tile", { ...own, level: 0, row: 0, column: 0, size: 72 }, signal);
          button.firstChild.src = URL.createObjectURL(await response.blob());
          button.title = `tile in ${duration(milliseconds(response) ?? 0)}`;
        } else {
          const response = await request("points", { ...own, first: 0, num: 512 }, signal);
          drawCloud(button.firstChild, new Float32Array(await response.arrayBuffer()), Number(response.headers.get("x-channels")));
        }
      } catch (error) {
        if (error.name === "AbortError") return;
        button.title = error.message;
        button.disabled = true;
      }
    }
  }

  remove() {
    this.recording?.abort();
    this.stripController?.abort();
    for (const view of this.views) view.destroy();
    this.element.remove();
  }
}

/** The size of a point in units of the cloud, from the slider's 1 to 100. */
function dotSize(position) {
  return 0.0025 * 16 ** (position / 100);
}

function drawCloud(canvas, values, channels) {
  const side = canvas.width = canvas.height = 144;
  const context = canvas.getContext("2d");
  const [turn, tilt] = [0.65, 0.45];
  for (let from = 0; from < values.length; from += channels) {
    const [x, y, z] = values.subarray(from, from + 3);
    const [right, depth] = [x * Math.cos(turn) - z * Math.sin(turn), x * Math.sin(turn) + z * Math.cos(turn)];
    const up = y * Math.cos(tilt) - depth * Math.sin(tilt);
    const [r, g, b] = tintAt(y).map((share) => Math.round(255 * share));
    context.fillStyle = `rgb(${r}, ${g}, ${b})`;
    context.fillRect(side * (0.5 + 0.34 * right), side * (0.5 - 0.34 * up), 2.5, 2.5);
  }
}
