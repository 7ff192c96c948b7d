// The surface of a shape: a mesh that turns.

import { BufferAttribute, BufferGeometry, DirectionalLight, DoubleSide, HemisphereLight, Mesh, MeshStandardMaterial }
  from "./vendor/three.min.js";
import { milliseconds, request } from "./api.js";
import { Stage } from "./stage.js";

const UNIT = 0.5; // shapes are in [-0.5, 0.5]

export class MeshView extends Stage {
  constructor(element, { report, fail, move }) {
    super(element, { move, unit: UNIT });
    Object.assign(this, { report, fail });
    this.material = new MeshStandardMaterial({ color: 0x9db8dc, roughness: 0.65, side: DoubleSide });
    this.mesh = new Mesh(new BufferGeometry(), this.material);
    const sun = new DirectionalLight(0xffffff, 2.2);
    sun.position.set(0.5, 1, 0.6);
    this.scene.add(this.mesh, sun, new HemisphereLight(0xffffff, 0x667088, 1.6));
  }

  /** Show a function's surface; the side of the grid is in the parameters. */
  async show(parameters) {
    this.abort();
    const { signal } = this.controller = new AbortController();
    try {
      const response = await request("mesh", parameters, signal);
      const data = await response.arrayBuffer();
      if (signal.aborted) return;
      this.fill(data, Number(response.headers.get("x-vertices")), Number(response.headers.get("x-faces")));
      this.report(milliseconds(response));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.mesh.geometry.setDrawRange(0, 0);
      this.draw();
      this.fail(error);
    }
  }

  fill(data, vertices, faces) {
    const geometry = new BufferGeometry();
    geometry.setAttribute("position", new BufferAttribute(new Float32Array(data, 0, 3 * vertices), 3));
    const normals = new Float32Array(data, 12 * vertices, 3 * vertices);
    geometry.setIndex(new BufferAttribute(new Uint32Array(data, 24 * vertices, 3 * faces), 1));
    if (normals.some((number) => number)) geometry.setAttribute("normal", new BufferAttribute(normals, 3));
    else geometry.computeVertexNormals();
    this.mesh.geometry.dispose();
    this.mesh.geometry = geometry;
    this.draw();
  }

  /** End the request under way. */
  abort() {
    this.controller?.abort();
  }

  destroy() {
    this.abort();
    this.mesh.geometry.dispose();
    this.material.dispose();
    super.destroy();
  }
}
