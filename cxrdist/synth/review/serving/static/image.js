// An image on black: drawn with a window and a level, zoomed and moved.
"use strict";

class View {
  constructor(stage, canvas) {
    Object.assign(this, { stage, canvas, grey: null, size: [0, 0], isSmooth: kept("pixels") !== "yes" });
    this.reset();
    new ResizeObserver(() => this.place()).observe(stage);
    stage.addEventListener("pointerdown", (event) => stage.setPointerCapture(event.pointerId));
    stage.addEventListener("pointermove", (event) => {
      if (!event.buttons || !this.grey) return;
      this.width = Math.min(Math.max(this.width + event.movementX, 2), 1024);
      this.level = Math.min(Math.max(this.level - event.movementY, 0), 255);
      this.draw();
    });
  }

  // A window of 255 at 127.5 shows the grey values as they are.
  reset() { Object.assign(this, { width: 255, level: 127.5, zoom: 1, x: 0, y: 0 }); }

  show({ grey, size }) {
    Object.assign(this, { grey, size });
    [this.canvas.width, this.canvas.height] = size;
    this.reset();
    this.draw();
    this.place();
  }

  hide() { this.grey = null; this.canvas.width = this.canvas.height = 0; }

  draw() {
    if (!this.grey) return;
    const shown = new Uint8ClampedArray(256);
    for (let value = 0; value < 256; value++) shown[value] = (value - this.level) / this.width * 255 + 127.5;
    const pixels = new ImageData(...this.size);
    for (let i = 0; i < this.grey.length; i++) {
      pixels.data[4 * i] = pixels.data[4 * i + 1] = pixels.data[4 * i + 2] = shown[this.grey[i]];
      pixels.data[4 * i + 3] = 255;
    }
    this.canvas.getContext("2d").putImageData(pixels, 0, 0);
    byId("window").textContent = `Window ${Math.round(this.width)}, level ${Math.round(this.level)}`;
  }

  place() {
    if (!this.grey) return;
    const [width, height] = this.size;
    const scale = Math.min(this.stage.clientWidth / width, this.stage.clientHeight / height) * this.zoom;
    this.canvas.style.width = `${width * scale}px`;
    this.canvas.style.height = `${height * scale}px`;
    this.canvas.style.transform = `translate(${this.x}px, ${this.y}px)`;
    this.canvas.classList.toggle("pixels", !this.isSmooth);
    byId("smooth").textContent = this.isSmooth ? "pixels" : "smooth";
  }

  // Returns whether the key was one of the view's.
  press(key) {
    const step = 60;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (key === "+" || key === "=") this.zoom = Math.min(this.zoom * 1.25, 16);
    else if (key === "-") this.zoom = Math.max(this.zoom / 1.25, 0.25);
    else if (key === "0") { this.reset(); this.draw(); }
    else if (key === "i") { this.isSmooth = !this.isSmooth; keep("pixels", this.isSmooth ? "no" : "yes"); }
    else if (moves[key]) { this.x += moves[key][0]; this.y += moves[key][1]; }
    else return false;
    this.place();
    return true;
  }
}

async function loaded(item) {
  const image = new Image();
  image.src = `/image/${item.token}`;
  await image.decode();
  const size = [image.naturalWidth, image.naturalHeight];
  const canvas = Object.assign(document.createElement("canvas"), { width: size[0], height: size[1] });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, ...size);
  return { grey: data.filter((_, i) => i % 4 === 0), size };
}
