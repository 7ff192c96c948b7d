// One run on the page: its weights, its view, its times, its downloads, and the strip of growing steps.

import { duration, encodes, functionOf, milliseconds, request, save, slowRequest } from "./api.js";
import { ClipView } from "./clip_view.js";
import { CloudView, tintAt } from "./cloud_view.js";
import { ImageView } from "./image_view.js";
import { MeshView } from "./mesh_view.js";
import { ProteinView } from "./protein_view.js";
import { SceneView } from "./scene_view.js";
import { beside, numSamples, titleOf } from "./state.js";

const STRIP = [1, 2, 3, 5, 8, 12, 20, 30, 50, 100, 250, 500];
const VIEWS = { cloud: CloudView, mesh: MeshView, scene: SceneView, clip: ClipView, structure: ProteinView };
export const SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"; // of a protein, where the page does not say another
const GRID = "64"; // of a mesh, where the page does not say another
const UNITS = { image: "tile", cloud: "points", mesh: "mesh", scene: "view", clip: "clip", structure: "structure" };
const FOLLOW = 250; // milliseconds between two looks at how far a recording is
const NAMES = { function: "function", bicubic: "bicubic enlargement", pixels: "training pixels", truth: "input image" };

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
    this.part("download").addEventListener("click", () => this.download());
    document.getElementById("panels").append(this.element);
  }

  get run() { return this.page.info.runs[this.own.run]; }

  get title() { return titleOf(this.run, this.page.info.runs); }

  /** Show what the state says; views stay where they are of the same kind. */
  show() {
    const { state } = this.page;
    this.fillWeights();
    const kinds = this.viewKinds();
    if (kinds.join() !== this.kinds?.join()) this.makeViews(kinds);
    this.part("close").hidden = state.panels.length < 2;
    if (!kinds.length) return this.wait();
    const parameters = this.parameters();
    const key = JSON.stringify([parameters, kinds, this.size()]);
    if (key !== this.shown) {
      this.shown = key;
      this.times = {};
      const show = (view) => view.show({ ...parameters, ...this.size() }, this.run, state.points);
      for (const view of this.views) if (!this.needsRecording(view)) show(view);
      this.recorded = this.record(parameters, show);
    }
    for (const view of this.views) {
      view.setNumber?.(state.points);
      view.setDot?.(dotSize(state.dot));
      view.setGrid?.(state.grid);
      view.setTint?.(state.tint);
      view.setRate?.(Number(state.rate) || this.run.rate || 8);
    }
    this.showStrip();
  }

  /** What is shown side by side; nothing where the run waits for an image. */
  viewKinds() {
    const { state } = this.page;
    if (this.run.image === "condition" && !state.image) return [];
    return this.run.view === "image" ? ["function", ...beside(state.compare, this.isEncoded)] : [this.run.view];
  }

  /** Whether a view shows what is recorded; beside it are the input image, and its pixels as the model reads them. */
  needsRecording({ kind }) {
    return kind !== "truth" && !(this.isEncoded && ["bicubic", "pixels"].includes(kind));
  }

  /** Whether it shows the function of the input image. */
  get isEncoded() { return encodes(this.page.state, this.run); }

  /** Say that the run needs an image. */
  wait() {
    this.recording?.abort();
    this.shown = null;
    this.part("foot").classList.remove("bad");
    this.part("what").textContent = "drop an image on the page";
    this.part("time").textContent = "";
    this.part("steps").hidden = true;
  }

  /** The parameters of the function that is shown. */
  parameters(changes = {}) {
    const { text, sequence } = this.page.state;
    const inputs = { text, sequence: sequence.replace(/\s/g, "") || SEQUENCE }; // an empty text is a condition too
    const own = Object.fromEntries(this.run.inputs.map((name) => [name, inputs[name]]));
    return { ...functionOf(this.page.state, this.own, this.page.info.runs, changes), ...(this.isEncoded ? {} : own) };
  }

  /** The size of what is shown, of a mesh, a scene or a clip; of proteins how many. */
  size() {
    const { state } = this.page;
    const all = {
      mesh: { resolution: state["grid-side"] || GRID },
      scene: { resolution: state["view-side"] },
      clip: { resolution: state["clip-side"], frames: state.frames },
      structure: { samples: numSamples(state) },
    };
    return Object.fromEntries(Object.entries(all[this.run.view] || {}).filter(([, value]) => value));
  }

  fillRuns() {
    const options = this.page.info.runs.map((run, index, runs) => new Option(titleOf(run, runs), index));
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
    this.views = kinds.flatMap((kind, index) => {
      try {
        return [Object.assign(this.makeView(kind, elements[index]), { kind, pane: elements[index] })];
      } catch (error) { // as without WebGL: the other panels go on
        elements[index].replaceChildren(Object.assign(document.createElement("span"), { className: "name bad", textContent: error.message }));
        return [];
      }
    });
  }

  makeView(kind, element) {
    const common = {
      info: this.page.info,
      report: (number) => { if (!(kind in NAMES) || kind === "function") this.time("view", number); },
      fail: (error) => this.fail(error),
      move: (view, where) => this.page.moved(view, where),
    };
    const { pose } = this.page.state;
    if (kind in VIEWS) {
      const view = new VIEWS[kind](element, { ...common, count: () => this.page.count() });
      if (pose) view.place(pose);
      return view;
    }
    const view = new ImageView(element, { ...common, kind });
    if (this.page.state.zoom) view.place(this.page.state.zoom);
    return view;
  }

  /** Ask for the recording, its class and its time; then `show` the views that need it, which stay as they are until then. */
  async record(parameters, show) {
    this.recording?.abort();
    const controller = this.recording = new AbortController();
    const { signal } = controller;
    const views = this.views.filter((view) => this.needsRecording(view));
    const mark = (name, isOn) => { for (const { pane } of views) pane.classList.toggle(name, isOn); };
    mark("stale", true);
    for (const view of views) view.abort();
    this.part("foot").classList.remove("bad");
    this.part("what").textContent = "recording ...";
    this.part("time").textContent = "";
    this.isSent = false;
    this.follow(parameters, signal);
    try {
      const answer = await (await this.requestRecord(parameters, signal)).json();
      mark("failed", false);
      for (const view of views) this.showRecorded(view, show, controller);
      const { options } = answer;
      const words = [answer.class ?? (answer.label === null ? null : answer.label < 0 ? "no class" : `class ${answer.label}`)];
      if (options.sampler) words.push(options.sampler.split(" ")[0].replaceAll("_", "-"));
      if (options.guidance && Number(options.guidance) !== 1) words.push(`guidance ${options.guidance}`);
      if (options.guidance_interval) words.push(`between ${options.guidance_interval.replace(",", " and ")}`);
      if (options.guide) words.push("autoguidance");
      for (const error of answer.error) words.push(`reconstructed to ${error}`);
      this.part("what").textContent = words.filter(Boolean).join(", ");
      this.time("record", answer.milliseconds);
    } catch (error) {
      if (error.name === "AbortError") return;
      mark("failed", true);
      this.page.count();
      this.fail(error);
    } finally {
      controller.abort(); // of what follows it
    }
  }

  /** Show a view of what is recorded; it stays faded until it is drawn, or until another recording begins. */
  async showRecorded(view, show, controller) {
    await show(view);
    if (this.recording === controller) view.pane.classList.remove("stale");
  }

  /** Say which step a recording is at, until the signal aborts. */
  async follow(parameters, signal) {
    while (await pause(FOLLOW, signal)) {
      try {
        const answer = this.isSent ? await (await request("progress", parameters, signal)).json() : {};
        const { done, total, is_recorded: isRecorded } = answer;
        if (!signal.aborted && !isRecorded) this.part("what").textContent = recordingWords(done, total, this.isEncoded ? "evaluation" : "step");
      } catch { return; } // the request of the recording itself says why
    }
  }

  /** What is recorded is answered at once, and other recordings in turn. */
  async requestRecord(parameters, signal) {
    const { is_recorded: isRecorded } = await (await request("progress", parameters, signal)).json();
    if (isRecorded) return request("record", parameters, signal);
    return slowRequest("record", parameters, signal, () => { this.isSent = true; });
  }

  time(name, number) {
    if (number === null) return;
    this.times[name] = number;
    const { record, view } = this.times;
    const words = [];
    if (record !== undefined) words.push(`recorded in ${duration(record)}`);
    if (view !== undefined) words.push(`${UNITS[this.run.view]} in ${duration(view)}`);
    this.part("time").textContent = words.join(", ");
  }

  fail(error) {
    this.part("foot").classList.add("bad");
    this.part("what").textContent = error.message;
    this.part("time").textContent = "";
  }

  /** The frame rate of a clip's file; it goes with the number of frames, whose duration follows. */
  rate() {
    const { rate, frames } = this.page.state;
    return rate ? { fps: rate, frames: frames || this.run.frames } : {};
  }

  /** What the file of what is shown is requested with. */
  fileParameters() {
    const suffix = this.part("suffix").value;
    const parameters = { ...this.parameters(), suffix };
    const [view] = this.views;
    const isMesh = ["glb", "obj", "stl", "ply"].includes(suffix);
    if (this.run.view === "cloud") parameters.points = this.page.state.points;
    else if (this.run.view === "scene" && !isMesh) Object.assign(parameters, this.size(), view.camera());
    else if (this.run.view === "mesh" && suffix === "npz") parameters.points = 2048;
    else if (this.run.view === "clip") Object.assign(parameters, this.size(), this.rate());
    else if (this.run.view !== "image") Object.assign(parameters, this.run.view === "mesh" ? this.size() : {});
    else Object.assign(parameters, windowParameters(view, this.page.info.max_side));
    return parameters;
  }

  /** Save the file of what is shown. */
  async download() {
    const button = this.part("download");
    const parameters = this.fileParameters();
    button.disabled = true;
    try {
      await save(await slowRequest("file", parameters), `${this.run.name}-${this.isEncoded ? parameters.image : `seed-${parameters.seed}`}.${parameters.suffix}`);
    } catch (error) {
      this.fail(error);
    } finally {
      button.disabled = false;
    }
  }

  /** Thumbnails of the same seed with growing steps; a click takes the steps. */
  showStrip() {
    const { state, info } = this.page;
    const strip = this.part("steps");
    strip.hidden = !state.strip || !this.run.takes_steps || !["image", "cloud"].includes(this.run.view) || this.isEncoded;
    const parameters = this.parameters({ steps: "" });
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
    const counts = [...new Set([...STRIP.filter((count) => count < (usual ?? 50)), usual ?? 50, ...(usual === 1 ? [2] : [])])].filter((count) => count <= info.most_steps);
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
    await this.recorded; // what is shown comes first
    for (const button of buttons) {
      const own = { ...parameters, steps: button.value };
      try {
        if (this.run.view === "image") {
          const response = await slowRequest("tile", { ...own, level: 0, row: 0, column: 0, size: 72 }, signal);
          const url = URL.createObjectURL(await response.blob());
          button.firstChild.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
          button.firstChild.src = url;
          button.title = `tile in ${duration(milliseconds(response) ?? 0)}`;
        } else {
          const response = await slowRequest("points", { ...own, first: 0, num: 512 }, signal);
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

/** The visible window of an image at the pixels of the screen. */
function windowParameters(view, most) {
  if (!view?.viewer.world.getItemCount()) return {};
  const { window: shown, rows, columns } = view.window();
  if (shown[2] <= shown[0] || shown[3] <= shown[1]) return {};
  const scale = Math.min(1, most / Math.max(rows, columns));
  const resolution = [rows, columns].map((count) => Math.max(1, Math.floor(count * scale))).join("x");
  return { window: shown.join(","), resolution };
}

/** The size of a point in units of the cloud, from the slider's 1 to 100. */
function dotSize(position) {
  return 0.0025 * 16 ** (position / 100);
}

/** How far a recording is: it waits its turn, or has done some of all steps, where both are equal of an unknown number. */
function recordingWords(done, total, unit) {
  if (done === undefined || done === null) return "waiting ...";
  if (total < 2) return "recording ...";
  return `recording, ${unit} ${done < total ? `${(done + 1).toLocaleString("en")} of ${total.toLocaleString("en")}` : done.toLocaleString("en")} ...`;
}

/** Whether so many milliseconds have passed before the signal aborts. */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(true), milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(false); }, { once: true });
  });
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
