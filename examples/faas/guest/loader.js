// Loads handler.js beside it, answers requests on descriptor 3, which relay.c connects with vsock.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const net = require('net');
const path = require('path');

// Node's own random numbers would be the same in every clone: they are made in the process, from a seed that was there before the fork.
// The kernel's are not. (TLS keys still come from Node's own: see docs/functions.md.)
const urandom = fs.openSync('/dev/urandom', 'r');
function random(length) {
  const bytes = Buffer.alloc(length);
  fs.readSync(urandom, bytes);
  return bytes;
}
Math.random = () => random(6).readUIntBE(0, 6) / 2 ** 48;
crypto.randomBytes = (length, done) => (done ? process.nextTick(done, null, random(length)) : random(length));
crypto.randomFillSync = (view) => { Buffer.from(view.buffer || view, view.byteOffset, view.byteLength).set(random(view.byteLength)); return view; };
crypto.randomUUID = () => {
  const bytes = random(16);
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  return bytes.toString('hex').replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
};
for (const [name, value] of [['getRandomValues', crypto.randomFillSync], ['randomUUID', crypto.randomUUID]]) {
  Object.defineProperty(Object.getPrototypeOf(crypto.webcrypto), name, { value });
}

const handler = require(path.join(__dirname, 'handler.js'));
const stream = new net.Socket({ fd: 3 });
let come = Buffer.alloc(0);

function answer(method, url, body) {
  const begin = process.cpuUsage();
  let data = '', status = 200;
  try {
    data = method === 'WARM' ? '' : handler.handle(method, url, body);
  } catch (error) {
    [data, status] = [`${error}\n`, 500];
  }
  data = Buffer.from(data);
  const used = process.cpuUsage(begin);
  stream.write(Buffer.concat([Buffer.from(`${status} text/plain ${data.length} ${used.user + used.system}\n`), data]));
}

stream.on('data', (data) => {
  come = Buffer.concat([come, data]);
  const end = come.indexOf(10);
  if (end < 0) return;
  const [method, url, length] = come.subarray(0, end).toString().split(' ');
  if (come.length < end + 1 + Number(length)) return;
  const body = come.subarray(end + 1, end + 1 + Number(length));
  come = Buffer.alloc(0);
  answer(method, url, body);
});
if (handler.warm) handler.warm();
stream.write('\n');
