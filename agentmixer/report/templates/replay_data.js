"use strict";
// What replay_data.py has packed. Arrays lie with time last: element i at moment t is array[i * moments + t].

/** The bytes of base64 text that was deflated (zlib). Resolves to an ArrayBuffer. */
async function inflate(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** One array of an episode: Uint8Array or Float32Array. */
function unpacked(data, entry) {
  if (entry.as === "u1") return new Uint8Array(data, entry.at, entry.size);
  if (entry.as === "f4") return new Float32Array(data.slice(entry.at, entry.at + 4 * entry.size));
  // 16-bit numbers: all low bytes, then all high ones; each is the difference from the moment before.
  const planes = new Uint8Array(data, entry.at, 2 * entry.size);
  const values = new Float32Array(entry.size);
  const last = entry.low.length;
  for (let row = 0, i = 0; i < entry.size; row++) {
    const low = entry.low[row % last], step = entry.step[row % last];
    for (let moment = 0, code = 0; moment < entry.moments; moment++, i++) {
      code = (code + planes[i] + 256 * planes[entry.size + i]) & 65535;
      values[i] = code === 65535 ? NaN : low + step * code;
    }
  }
  return values;
}

/** An episode, ready to be drawn: one object an arm, with its arrays and its scene. */
async function openEpisode(episode) {
  const whole = await inflate(episode.packed);
  const length = new DataView(whole).getUint32(0, true);
  const heads = JSON.parse(new TextDecoder().decode(new Uint8Array(whole, 4, length)));
  const data = whole.slice(4 + length);
  return heads.map((head, index) => {
    const arm = { ...episode.arms[index], actionWidth: head.actionWidth, scene: null, pictures: null, bitmaps: [] };
    for (const name of ["obs", "actions", "masks", "active", "decided"]) arm[name] = unpacked(data, head[name]);
    arm.moments = arm.steps + 1;
    if (head.scene) {
      arm.scene = { ...head.scene };
      for (const name of ["at", "to", "shown", "level", "seen", "centre"]) {
        if (head.scene[name]) arm.scene[name] = unpacked(data, head.scene[name]);
      }
    }
    if (head.pictures) {
      arm.shape = head.shape;
      arm.pictures = head.pictures.map((entry) => data.slice(entry.at, entry.at + entry.size));
    }
    return arm;
  });
}
