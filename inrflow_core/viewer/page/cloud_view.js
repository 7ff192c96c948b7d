// A cloud that turns: points are requested in blocks of ids, and a larger number only adds to those already here.

import { BufferAttribute, BufferGeometry, Points, ShaderMaterial } from "./vendor/three.min.js";
import { milliseconds, request } from "./api.js";
import { Stage } from "./stage.js";

const BLOCK = 8192; // points of a request: a cloud grows visibly
const VERTEX = `
  attribute vec3 tint;
  uniform float dot;
  uniform float height;
  varying vec3 shade;
  void main() {
    vec4 seen = modelViewMatrix * vec4(position, 1.0);
    gl_Position = projectionMatrix * seen;
    gl_PointSize = clamp(dot * height * projectionMatrix[1][1] / -seen.z, 1.0, 64.0);
    shade = tint;
  }`;
const FRAGMENT = `
  varying vec3 shade;
  void main() {
    vec2 at = 2.0 * gl_PointCoord - 1.0;
    float square = dot(at, at);
    if (square > 1.0) discard;
    float light = 0.45 + 0.55 * max(0.0, dot(vec3(at.x, -at.y, sqrt(1.0 - square)), vec3(-0.37, 0.56, 0.74)));
    gl_FragColor = vec4(shade * light, 1.0);
  }`;

export class CloudView extends Stage {
  constructor(element, { info, report, fail, move, count }) {
    super(element, { move });
    Object.assign(this, { info, report, fail, count });
    this.positions = new Float32Array(3 * info.most_points);
    this.tints = new Float32Array(3 * info.most_points);
    this.geometry = new BufferGeometry();
    this.geometry.setAttribute("position", new BufferAttribute(this.positions, 3));
    this.geometry.setAttribute("tint", new BufferAttribute(this.tints, 3));
    this.material = new ShaderMaterial({
      vertexShader: VERTEX, fragmentShader: FRAGMENT, uniforms: { dot: { value: 0.01 }, height: { value: 1 } },
    });
    const points = new Points(this.geometry, this.material);
    points.frustumCulled = false;
    this.scene.add(points);
    this.loaded = 0;
    this.wanted = 0;
    this.resize();
  }

  /** Show a function with a number of points. */
  show(parameters, run, number) {
    this.abort();
    this.controller = new AbortController();
    this.loading = null;
    this.parameters = parameters;
    this.loaded = 0;
    this.setNumber(number);
  }

  /** End the request under way, and make none until another function is shown. */
  abort() {
    this.controller?.abort();
    this.parameters = null;
  }

  /** Show so many points: those that are here, and further blocks. */
  setNumber(number) {
    this.wanted = number;
    this.update();
    if (this.parameters && this.loaded < number && !this.loading) this.load();
  }

  setDot(size) {
    this.material.uniforms.dot.value = size;
    this.draw();
  }

  async load() {
    const { signal } = this.controller;
    this.loading = signal;
    try {
      while (this.loaded < this.wanted && !signal.aborted) {
        const first = this.loaded;
        const num = Math.min(BLOCK, this.wanted - first);
        const response = await request("points", { ...this.parameters, first, num }, signal);
        const values = new Float32Array(await response.arrayBuffer());
        if (signal.aborted) return;
        this.add(first, num, values, Number(response.headers.get("x-channels")));
        this.report(milliseconds(response));
      }
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    } finally {
      if (this.loading === signal) this.loading = null;
    }
  }

  add(first, num, values, channels) {
    for (let index = 0; index < num; index++) {
      const [from, to] = [index * channels, 3 * (first + index)];
      const [x, y, z] = values.subarray(from, from + 3);
      this.positions.set([x, y, z], to);
      if (channels >= 6) for (let c = 0; c < 3; c++) this.tints[to + c] = (values[from + 3 + c] + 1) / 2;
      else this.tints.set(tintAt(y), to);
    }
    this.loaded = first + num;
    for (const name of ["position", "tint"]) this.geometry.attributes[name].needsUpdate = true;
    this.update();
  }

  update() {
    const shown = Math.min(this.loaded, this.wanted);
    this.geometry.setDrawRange(0, shown);
    this.count();
    this.draw();
  }

  resize() {
    super.resize();
    if (this.material) this.material.uniforms.height.value = this.element.clientHeight * window.devicePixelRatio;
    this.draw();
  }

  destroy() {
    this.abort();
    this.geometry.dispose();
    this.material.dispose();
    super.destroy();
  }
}

/** A color by height, from -1 to 1. */
export function tintAt(height) {
  const t = Math.min(1, Math.max(0, (height + 1) / 2));
  return [0.25 + 0.7 * t, 0.45 + 0.35 * Math.sin(Math.PI * t), 0.95 - 0.7 * t];
}
