// The page: its controls, its panels, and the address that holds what is shown.

import { address, encodes, request, save, send, slowRequest, takesCamera } from "./api.js";
import { Panel, SEQUENCE } from "./panel.js";
import { MOST_PANELS, fromFragment, numSamples, pointsAt, positionOf, titleOf, toFragment } from "./state.js";

const find = (id) => document.getElementById(id);
const MOST_LISTED = 2000;
const MOST_GUIDES = 20; // older checkpoints of a run that are listed as guides
const KINDS = {
  mesh: [["grid-side", () => 64]],
  scene: [["view-side", (run) => run?.resolution]],
  structure: [["samples", (_, state) => numSamples({ ...state, samples: "" })]],
  clip: [["clip-side", (run) => run?.resolution], ["frames", (run) => run?.frames], ["rate", (run) => run?.rate ?? 8]],
};
const LARGEST_SEED = 2n ** 63n - 1n;

class Page {
  constructor(info) {
    this.info = info;
    this.state = fromFragment(location.hash, info);
    this.panels = [];
    this.connect();
    window.addEventListener("hashchange", () => {
      if (location.hash.slice(1) === this.fragment) return;
      this.state = fromFragment(location.hash, info);
      this.rebuild();
    });
    window.addEventListener("pageshow", ({ persisted }) => { if (persisted) this.rebuild(); }); // its requests were aborted
    this.rebuild();
  }

  /** All panels anew. */
  rebuild() {
    for (const panel of this.panels) panel.remove();
    this.panels = this.state.panels.map((own) => new Panel(this, own));
    this.change();
  }

  /** Bring controls, panels and the address to the state. */
  change() {
    this.fillControls();
    for (const panel of this.panels) panel.show();
    this.count();
    this.remember();
  }

  remember() {
    this.fragment = toFragment(this.state, this.info);
    history.replaceState(null, "", `#${this.fragment}`);
  }

  close(panel) {
    const index = this.panels.indexOf(panel);
    this.panels.splice(index, 1);
    this.state.panels.splice(index, 1);
    panel.remove();
    this.change();
  }

  add() {
    const last = this.state.panels.at(-1);
    const own = { run: (last.run + 1) % this.info.runs.length, step: "", ema: "" };
    this.state.panels.push(own);
    this.panels.push(new Panel(this, own));
    this.change();
  }

  /** A view was moved by hand: the others of its kind follow. */
  moved(view, where) {
    this.state[view.key] = where;
    for (const other of this.panels.flatMap((panel) => panel.views)) {
      if (other !== view && other.key === view.key) other.place(where);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { this.remember(); }, 250);
  }

  /** Say how many points the clouds show, and how many are to come. */
  count() {
    const { points } = this.state;
    const clouds = this.panels.flatMap((panel) => panel.views).filter((view) => view.kind === "cloud" && !view.pane.matches(".failed"));
    const loaded = Math.min(points, ...clouds.map((view) => view.loaded));
    const all = points.toLocaleString("en");
    find("num-points").textContent = loaded === points ? all : loaded ? `${loaded.toLocaleString("en")} of ${all}` : `${all} to come`;
  }

  connect() {
    const set = (name, value) => { say(""); this.state[name] = value; this.change(); };
    const adopt = ({ target }) => {
      if (target.validity.valid) set(target.id, target.value.trim());
      else {
        say(`${document.querySelector(`label[for=${target.id}]`).textContent}: ${target.validationMessage}`, true);
        this.fillControls();
      }
    };
    const shift = (by) => {
      const seed = BigInt(this.state.seed) + by;
      if (seed >= 0n && seed <= LARGEST_SEED) set("seed", String(seed));
    };
    find("previous").addEventListener("click", () => shift(-1n));
    find("next").addEventListener("click", () => shift(1n));
    find("random").addEventListener("click", () => set("seed", String(Math.floor(Math.random() * 1e6))));
    find("seed").addEventListener("change", (event) => {
      const text = event.target.value.trim();
      if (/^\d{1,19}$/.test(text)) set("seed", String(BigInt(text)));
      else this.fillControls();
    });
    for (const name of ["label", "sampler", "steps", "guidance", "interval", "guide", "text", "sequence", "tint", "compare", "camera"]) {
      find(name).addEventListener("change", adopt);
    }
    for (const name of ["grid", "strip"]) find(name).addEventListener("change", (event) => set(name, event.target.checked));
    find("points").addEventListener("input", (event) => set("points", pointsAt(Number(event.target.value))));
    for (const name of ["grid-side", "view-side", "clip-side", "frames", "rate", "samples"]) {
      find(name).addEventListener("change", adopt);
    }
    find("dot").addEventListener("input", (event) => set("dot", Number(event.target.value)));
    find("add").addEventListener("click", () => this.add());
    find("home").addEventListener("click", () => { for (const view of this.panels.flatMap((panel) => panel.views)) view.home(); });
    find("share").addEventListener("click", () => this.share());
    find("freeze").addEventListener("click", () => this.freeze());
    this.connectInput();
    find("controls").addEventListener("submit", (event) => event.preventDefault());
  }

  /** An image that is dropped, pasted or chosen becomes the input. */
  connectInput() {
    find("file").addEventListener("change", ({ target }) => { this.take(target.files[0]); target.value = ""; });
    find("remove-input").addEventListener("click", () => { this.state.image = ""; this.change(); });
    window.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (file) this.take(file);
    });
    const has = (event) => event.dataTransfer?.types.includes("Files");
    const mark = (isOver) => document.body.classList.toggle("dropping", isOver);
    window.addEventListener("dragover", (event) => { if (has(event)) { event.preventDefault(); mark(true); } });
    window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); });
    window.addEventListener("drop", (event) => {
      if (!has(event)) return;
      event.preventDefault();
      mark(false);
      this.take(event.dataTransfer.files[0]);
    });
  }

  /** Send a file to the server, and show what the runs do with it. */
  async take(file) {
    if (!file) return;
    const { most_bytes: most } = this.info;
    try {
      if (!this.panels.some((panel) => panel.run.image)) throw new Error("no run on the page takes an image");
      if (file.size > most) throw new Error(`${file.name}: at most ${most / 2 ** 20} MiB`);
      say(`reading ${file.name} ...`);
      this.state.image = (await (await send("image", file)).json()).image;
      say("");
      this.change();
    } catch (error) {
      say(error.message, true);
    }
  }

  async share() {
    this.remember();
    try {
      await navigator.clipboard.writeText(location.href);
      say("the address is on the clipboard; it works while this server runs");
    } catch {
      say("copy the address from the browser's bar");
    }
  }

  /** Save what is shown as one page that needs no server. */
  async freeze() {
    this.remember();
    find("freeze").disabled = true;
    say("evaluating what the page shows ...");
    try {
      await save(await slowRequest("frozen", { fragment: this.fragment }), "inrflow-view.html");
      say("");
    } catch (error) {
      say(error.message, true);
    } finally {
      find("freeze").disabled = false;
    }
  }

  /** The controls that the runs on the page have. */
  fillControls() {
    const { state } = this;
    const runs = this.panels.map((panel) => panel.run);
    find("seed").value = state.seed;
    this.fillClasses(runs);
    this.fillInput(runs);
    const samplers = [...new Set(runs.flatMap((run) => run.samplers))];
    fill("sampler", [new Option("preset's", ""), ...samplers.map((name) => new Option(name, name))], state.sampler, samplers.length);
    find("sampler").options[0].text = this.ofPreset("sampler", (run) => run.sampler, "preset's (", ")");
    fillNumber("steps", state.steps, this.ofPreset("steps", (run) => run.steps), runs.some((run) => run.takes_steps));
    const guides = runs.filter((run) => run.interval);
    const isGuided = runs.some((run) => run.guidance !== null) || Boolean(state.guide && guides.length);
    fillNumber("guidance", state.guidance, this.ofPreset("guidance", (run) => run.guidance), isGuided);
    fillNumber("interval", state.interval, this.ofPreset("interval", (run) => run.interval?.join(",")), isGuided && guides.length);
    fill("guide", [new Option("no other run", ""), ...this.guideOptions(guides)], state.guide, guides.length);
    find("steps").max = this.info.most_steps;
    find("add").disabled = this.panels.length >= MOST_PANELS;
    find("strip").checked = state.strip;
    find("strip").parentElement.hidden = !runs.some((run) => run.takes_steps);
    find("image-controls").hidden = !runs.some((run) => run.view === "image");
    find("cloud-controls").hidden = !runs.some((run) => run.view === "cloud");
    for (const [kind, names] of Object.entries(KINDS)) {
      find(`${kind}-controls`).hidden = !runs.some((run) => run.view === kind);
      for (const [name, usual] of names) {
        find(name).value = state[name];
        find(name).placeholder = this.ofPreset(name, (run) => (run.view === kind ? usual(run, state) : null), "");
      }
    }
    for (const name of ["text", "sequence"]) {
      find(name).value = state[name];
      show(name, runs.some((run) => run.inputs.includes(name)));
    }
    find("sequence").placeholder = SEQUENCE;
    find("tint").value = state.tint;
    find("compare").value = state.compare;
    find("grid").checked = state.grid;
    find("points").value = positionOf(state.points);
    find("dot").value = state.dot;
  }

  /** The value of the panels' presets, for a control that is empty; where they differ, a note under it says which run has which. */
  ofPreset(id, valueOf, before = "preset's: ", after = "") {
    const rows = this.panels.map(({ run, title }) => [title, valueOf(run)]).filter(([, value]) => value !== null && value !== undefined);
    const values = new Set(rows.map(([, value]) => value));
    const note = find(`${id}-presets`);
    note.textContent = values.size < 2 || this.state[id] ? "" : [...new Set(rows.map(([title, value]) => `${title}: ${value}`))].join("\n");
    return values.size > 1 ? "each preset's" : values.size ? `${before}${[...values][0]}${after}` : "preset's";
  }

  /** The runs that can guide some runs, each with its latest checkpoints. */
  guideOptions(runs) {
    const domains = new Set(runs.map((run) => run.domain));
    return this.info.runs.flatMap((run, index, all) => {
      const title = titleOf(run, all);
      if (!domains.has(run.domain)) return [];
      const older = run.checkpoints.slice(-MOST_GUIDES - 1, -1).reverse();
      return [new Option(title, index), ...older.map((step) => new Option(`${title}, step ${step.toLocaleString("en")}`, `${index},${step}`))];
    });
  }

  /** The input image, and which controls it leaves without effect. */
  fillInput(runs) {
    const { image, camera } = this.state;
    find("input-controls").hidden = !runs.some((run) => run.image);
    const uses = new Set(runs.map((run) => run.image));
    const words = [];
    if (uses.has("encode")) words.push("the function of it is shown in place of a sample");
    if (uses.has("condition")) words.push("clouds are sampled under it");
    find("about-input").textContent = image ? "" : `Drop or paste an image: ${words.join("; ")}.`;
    find("thumbnail").hidden = find("remove-input").hidden = !image;
    const source = address("tile", { image, kind: "truth", level: 0, row: 0, column: 0, size: 96 });
    if (image && find("thumbnail").getAttribute("src") !== source) find("thumbnail").src = source;
    find("camera").value = camera;
    show("camera", image && runs.some(takesCamera));
    const isSampled = runs.some((run) => !encodes(this.state, run));
    for (const name of ["seed", "previous", "next", "random", "guidance", "interval", "guide", "sampler"]) find(name).disabled = !isSampled;
  }

  fillClasses(runs) {
    const labelled = runs.filter((run) => run.classes);
    const names = [...new Set(labelled.flatMap((run) => run.class_names))];
    const numbers = names.length ? [] : Array.from({ length: Math.min(MOST_LISTED, Math.max(0, ...labelled.map((run) => run.classes))) }, (_, index) => String(index));
    const options = [new Option("random, by the seed", ""), ...[...names, ...numbers].map((name) => new Option(name, name))];
    if (labelled.some((run) => run.may_be_classless)) options.splice(1, 0, new Option("none", "none"));
    fill("label", options, this.state.label, labelled.length);
  }
}

function fill(id, options, value, isShown) {
  if (value && !options.some((option) => option.value === value)) options.push(new Option(value, value));
  find(id).replaceChildren(...options);
  find(id).value = value;
  show(id, isShown);
}

function fillNumber(id, value, usual, isShown) {
  find(id).value = value;
  find(id).placeholder = usual;
  show(id, isShown);
}

function show(id, isShown) {
  find(id).hidden = !isShown;
  document.querySelector(`label[for=${id}]`).hidden = !isShown;
  const note = find(`${id}-presets`);
  if (note) note.hidden = !isShown;
}

function say(words, isBad = false) {
  find("message").textContent = words;
  find("message").classList.toggle("bad", isBad);
}

try {
  const info = await (await request("info", {})).json();
  document.title = `${info.runs.map((run) => run.name).join(", ")} - inrflow view`;
  window.inrflowPage = new Page(info);
} catch (error) {
  say(error.message, true);
}
