'use strict'
// Shows packed counts (agilab_dashboards.tiles): pan, zoom, what a cell holds. Nothing is fetched.
const TILE = 256
const COLOURS = ['440154', '472d7b', '3b528b', '2c728e', '21918c', '28ae80', '5ec962', 'addc30', 'fde725']
  .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)))

const colour = (share) => {
  const place = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1)
  const at = Math.min(Math.floor(place), COLOURS.length - 2)
  return COLOURS[at].map((value, part) => Math.round(value + (COLOURS[at + 1][part] - value) * (place - at)))
}
const share = (count, most) => (most > 1 ? Math.log(count) / Math.log(most) : 1)

const unpack = async (level, text) => {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'))
  const buffer = await new Response(stream).arrayBuffer()
  let at = 0
  const take = (Kind, count) => {
    const found = new Kind(buffer.slice(at, at + count * Kind.BYTES_PER_ELEMENT))
    at += count * Kind.BYTES_PER_ELEMENT
    return found
  }
  const numbers = take(Uint32Array, level.tiles)
  const sizes = take(Uint32Array, level.tiles)
  const places = take(Uint16Array, level.cells)
  const counts = take({1: Uint8Array, 2: Uint16Array, 4: Uint32Array}[level.width], level.cells)
  const tiles = new Map()
  let first = 0
  numbers.forEach((number, index) => {
    const last = first + sizes[index]
    tiles.set(number, {places: places.subarray(first, last), counts: counts.subarray(first, last)})
    first = last
  })
  return tiles
}

const painted = (tile, most) => {
  const canvas = document.createElement('canvas')
  canvas.width = canvas.height = TILE
  const context = canvas.getContext('2d')
  const image = context.createImageData(TILE, TILE)
  tile.places.forEach((place, index) => {
    const at = 4 * ((TILE - 1 - (place >> 8)) * TILE + (place & 255))
    image.data.set([...colour(share(tile.counts[index], most)), 255], at)
  })
  context.putImageData(image, 0, 0)
  return canvas
}

const held = (tile, place) => {
  let low = 0
  let high = tile.places.length - 1
  while (low <= high) {
    const middle = (low + high) >> 1
    if (tile.places[middle] === place) return tile.counts[middle]
    if (tile.places[middle] < place) low = middle + 1
    else high = middle - 1
  }
  return 0
}

const steps = (low, high, most) => {
  const raw = (high - low) / most
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw)
  const found = []
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value)
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9))
  return found.map((value) => [value, digits > 6 ? value.toExponential(3) : value.toFixed(Math.min(digits, 8))])
}

class Viewer {
  constructor(place) {
    this.about = JSON.parse(place.querySelector('script.about').textContent)
    this.texts = [...place.querySelectorAll('script.level')].map((one) => one.textContent)
    this.unpacked = []
    this.pictures = new Map()
    this.canvas = place.querySelector('canvas.map')
    this.said = place.querySelector('output')
    this.bar = place.querySelector('canvas.bar')
    this.most = place.querySelector('.most')
    place.classList.add('live')
    this.whole()
    this.listen(place)
    new ResizeObserver(() => this.draw()).observe(this.canvas)
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw())
    this.draw()
  }

  whole() {
    const [left, bottom, right, top] = this.about.box
    this.centre = [(left + right) / 2, (bottom + top) / 2]
    this.zoom = 1
  }

  // Pixels per unit of each axis.
  get scale() {
    const [left, bottom, right, top] = this.about.box
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight]
    let found = [width / (right - left), height / (top - bottom)]
    if (this.about.equal) found = Array(2).fill(Math.min(...found))
    return found.map((one) => one * 0.96 * this.zoom)
  }

  to(x, y) {
    const [sx, sy] = this.scale
    return [this.canvas.clientWidth / 2 + (x - this.centre[0]) * sx,
      this.canvas.clientHeight / 2 - (y - this.centre[1]) * sy]
  }

  from(px, py) {
    const [sx, sy] = this.scale
    return [this.centre[0] + (px - this.canvas.clientWidth / 2) / sx,
      this.centre[1] - (py - this.canvas.clientHeight / 2) / sy]
  }

  // The finest level whose cells are no smaller than a pixel.
  get level() {
    const px = this.scale[0] * (window.devicePixelRatio || 1)
    let found = 0
    this.about.levels.forEach((level, index) => { if (2 ** level.kx * px >= 0.99) found = index })
    return found
  }

  tiles(index) {
    if (this.unpacked[index] === undefined) {
      this.unpacked[index] = null
      unpack(this.about.levels[index], this.texts[index]).then((tiles) => {
        this.unpacked[index] = tiles
        this.draw()
      })
    }
    return this.unpacked[index]
  }

  draw() {
    if (this.waiting) return
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint() })
  }

  paint() {
    const ratio = window.devicePixelRatio || 1
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight]
    if (!width) return
    this.canvas.width = Math.round(width * ratio)
    this.canvas.height = Math.round(height * ratio)
    const context = this.canvas.getContext('2d')
    context.scale(ratio, ratio)
    const index = this.level
    context.imageSmoothingEnabled = 2 ** this.about.levels[index].kx * this.scale[0] * ratio < 0.99
    const tiles = this.tiles(index)
    this.paintLines(context)
    if (tiles) this.paintTiles(context, index, tiles)
    this.paintAxes(context, width, height)
    this.legend(index)
    Object.assign(this.canvas.dataset, {level: index, zoom: this.zoom.toFixed(3), ready: tiles ? 'yes' : 'no'})
  }

  paintTiles(context, index, tiles) {
    const level = this.about.levels[index]
    const [dx, dy] = [2 ** level.kx, 2 ** level.ky]
    const across = Math.ceil(level.columns / TILE)
    for (const [number, tile] of tiles) {
      const column = level.left + (number % across) * TILE
      const row = level.bottom + Math.floor(number / across) * TILE
      const [left, bottom] = this.to(column * dx, row * dy)
      const [right, top] = this.to((column + TILE) * dx, (row + TILE) * dy)
      if (right < 0 || left > this.canvas.clientWidth || bottom < 0 || top > this.canvas.clientHeight) continue
      const name = `${index}/${number}`
      if (!this.pictures.has(name)) this.pictures.set(name, painted(tile, level.most))
      context.drawImage(this.pictures.get(name), left, top, right - left, bottom - top)
    }
  }

  // Coasts and borders: x and y in turns, one after the other, null after each line.
  paintLines(context) {
    context.beginPath()
    let open = false
    for (let at = 0; at < this.about.lines.length; at += 2) {
      const [x, y] = this.about.lines.slice(at, at + 2)
      if (x !== null) context[open ? 'lineTo' : 'moveTo'](...this.to(x, y))
      open = x !== null
    }
    context.strokeStyle = '#8a94a6'
    context.lineWidth = 0.7
    context.stroke()
  }

  paintAxes(context, width, height) {
    const style = getComputedStyle(this.canvas)
    const [text, back] = ['--soft', '--back'].map((name) => style.getPropertyValue(name))
    const [left, bottom] = this.from(0, height)
    const [right, top] = this.from(width, 0)
    context.font = '11px system-ui, sans-serif'
    const label = (words, x, y) => {
      const size = context.measureText(words).width
      context.globalAlpha = 0.8
      context.fillStyle = back
      context.fillRect(x - 3, y - 11, size + 6, 15)
      context.globalAlpha = 1
      context.fillStyle = text
      context.fillText(words, x, y)
    }
    for (const [value, words] of steps(left, right, Math.max(2, width / 130))) {
      const [x] = this.to(value, 0)
      context.fillStyle = text
      context.fillRect(x, height - 5, 1, 5)
      label(words, Math.min(Math.max(x - 12, 60), width - 70), height - 9)
    }
    for (const [value, words] of steps(bottom, top, Math.max(2, height / 80))) {
      const [, y] = this.to(0, value)
      context.fillStyle = text
      context.fillRect(0, y, 5, 1)
      if (y > 26 && y < height - 30) label(words, 9, y + 4)
    }
    label(this.about.labels[1], 9, 15)
    label(this.about.labels[0], width - context.measureText(this.about.labels[0]).width - 9, height - 27)
  }

  legend(index) {
    const context = this.bar.getContext('2d')
    for (let x = 0; x < this.bar.width; x += 1) {
      context.fillStyle = `rgb(${colour(x / (this.bar.width - 1)).join(',')})`
      context.fillRect(x, 0, 1, this.bar.height)
    }
    this.most.textContent = this.about.levels[index].most.toLocaleString('en')
  }

  tell(px, py) {
    const [x, y] = this.from(px, py)
    const index = this.level
    const level = this.about.levels[index]
    const tiles = this.tiles(index)
    const [column, row] = [Math.floor(x / 2 ** level.kx) - level.left, Math.floor(y / 2 ** level.ky) - level.bottom]
    let count = 0
    if (tiles && column >= 0 && row >= 0 && column < level.columns && row < level.rows) {
      const across = Math.ceil(level.columns / TILE)
      const tile = tiles.get(Math.floor(row / TILE) * across + Math.floor(column / TILE))
      if (tile) count = held(tile, ((row % TILE) << 8) | (column % TILE))
    }
    const at = [x, y].map((value) => Number(value.toPrecision(7)).toLocaleString('en', {maximumFractionDigits: 6}))
    this.said.textContent = `${count.toLocaleString('en')} ${count === 1 ? 'point' : 'points'} at ${at.join(', ')}`
    this.said.dataset.count = count
  }

  zoomAt(factor, px, py) {
    const before = this.from(px, py)
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.5), 64)
    const after = this.from(px, py)
    this.centre = this.centre.map((value, axis) => value + before[axis] - after[axis])
    this.draw()
  }

  pan(dx, dy) {
    const [sx, sy] = this.scale
    this.centre = [this.centre[0] - dx / sx, this.centre[1] + dy / sy]
    this.draw()
  }

  listen(place) {
    const middle = () => [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]
    const acts = {in: () => this.zoomAt(2, ...middle()), out: () => this.zoomAt(0.5, ...middle()),
      whole: () => { this.whole(); this.draw() }}
    for (const button of place.querySelectorAll('button')) button.addEventListener('click', acts[button.dataset.act])
    let last = null
    this.canvas.addEventListener('pointerdown', (event) => {
      last = [event.offsetX, event.offsetY]
      this.canvas.setPointerCapture(event.pointerId)
    })
    this.canvas.addEventListener('pointerup', () => { last = null })
    this.canvas.addEventListener('pointercancel', () => { last = null })
    this.canvas.addEventListener('pointermove', (event) => {
      if (last) this.pan(event.offsetX - last[0], event.offsetY - last[1])
      if (last) last = [event.offsetX, event.offsetY]
      this.tell(event.offsetX, event.offsetY)
    })
    this.canvas.addEventListener('wheel', (event) => {
      event.preventDefault()
      this.zoomAt(2 ** (-event.deltaY / 240), event.offsetX, event.offsetY)
    }, {passive: false})
    this.canvas.addEventListener('dblclick', (event) => this.zoomAt(2, event.offsetX, event.offsetY))
    const keys = {ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60]}
    this.canvas.addEventListener('keydown', (event) => {
      if (keys[event.key]) this.pan(...keys[event.key])
      else if (event.key === '+' || event.key === '=') acts.in()
      else if (event.key === '-') acts.out()
      else if (event.key === '0') acts.whole()
      else return
      event.preventDefault()
    })
  }
}

for (const place of document.querySelectorAll('.tiled')) new Viewer(place)
