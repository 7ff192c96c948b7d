// A scene of three.js in an element, with a camera that turns around the origin; poses are in units of what is shown.

import { OrbitControls, PerspectiveCamera, Scene, WebGLRenderer } from "./vendor/three.min.js";

/** Where the camera is at first, for content in [-1, 1]. */
export const HOME = [2.7, 1.9, 3.5];

const ANGLE = 35 * Math.PI / 180;

export class Stage {
  key = "pose";

  /** `unit` is half the side of what is shown; `move` is called with this view and its pose when it is turned by hand. */
  constructor(element, { move, unit = 1 }) {
    this.element = element;
    this.unit = unit;
    this.renderer = new WebGLRenderer({ antialias: true, alpha: true, preserveDrawingBuffer: true });
    this.renderer.setPixelRatio(window.devicePixelRatio);
    element.append(this.renderer.domElement);
    this.scene = new Scene();
    this.camera = new PerspectiveCamera(35, 1, 0.01 * unit, 100 * unit);
    this.camera.position.fromArray(HOME).multiplyScalar(unit);
    this.orbit = new OrbitControls(this.camera, this.renderer.domElement);
    this.orbit.enablePan = false;
    this.orbit.addEventListener("change", () => { this.draw(); if (!this.isFollowing) move(this, this.pose()); });
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(element);
    this.resize();
  }

  resize() {
    const { clientWidth, clientHeight } = this.element;
    if (!clientWidth || !clientHeight) return;
    this.renderer.setSize(clientWidth, clientHeight, false);
    const aspect = this.camera.aspect = clientWidth / clientHeight;
    // The angle is that of the shorter side.
    this.camera.fov = 2 * Math.atan(Math.tan(ANGLE / 2) / Math.min(1, aspect)) * 180 / Math.PI;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  draw() {
    this.renderer.render(this.scene, this.camera);
  }

  pose() {
    return this.camera.position.toArray().map((number) => number / this.unit);
  }

  /** Look from where another view looks. */
  place(pose) {
    this.isFollowing = true;
    this.camera.position.fromArray(pose).multiplyScalar(this.unit);
    this.orbit.update();
    this.isFollowing = false;
    this.draw();
  }

  home() {
    this.camera.position.fromArray(HOME).multiplyScalar(this.unit);
    this.orbit.update();
  }

  destroy() {
    this.observer.disconnect();
    this.orbit.dispose();
    this.renderer.dispose();
    this.renderer.domElement.remove();
  }
}
