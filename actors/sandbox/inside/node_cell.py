"""The program that runs cells in Node: handed to it as text, so that only Python has to be brought into a sandbox."""

SOURCE = r"""
'use strict';
const net = require('net');
const util = require('util');
const vm = require('vm');
const inspector = require('inspector');
const { createRequire } = require('module');

const RUN = 1, BEGUN = 1, DISPLAY = 3, ENDED = 6;
const OK = 0, ERROR = 1, INTERRUPTED = 2;
const MOST_LETTERS = 32 * 1024, MOST_MESSAGE = 4000, MOST_TRACE = 24000;

const link = new net.Socket({ fd: Number(process.argv[1]) });
const session = new inspector.Session();
session.connect();
let interrupt = null;
let displays = 0;

function send(kind, payload) {
  const header = Buffer.alloc(5);
  header.writeUInt32BE(payload.length, 0);
  header.writeUInt8(kind, 4);
  link.write(Buffer.concat([header, payload]));
}

function withLength(text) {
  const data = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length, 0);
  return Buffer.concat([length, data]);
}

function display(text) {
  const number = Buffer.alloc(4);
  number.writeUInt32BE(++displays >>> 0, 0);
  const mime = Buffer.from('text/plain');
  send(DISPLAY, Buffer.concat([number, Buffer.from([mime.length]), mime, withLength(text)]));
}

function end(status, name = '', message = '', trace = '') {
  // What was written to stdout and stderr goes first.
  process.stdout.write('', () => process.stderr.write('', () => send(ENDED, Buffer.concat([
    Buffer.from([status]), withLength(name), withLength(message.slice(0, MOST_MESSAGE)), withLength(trace.slice(0, MOST_TRACE)),
  ]))));
}

function post(method, parameters) {
  return new Promise((resolve, reject) => {
    session.post(method, parameters, (error, result) => (error ? reject(error) : resolve(result)));
  });
}

const held = { value: undefined };
globalThis[Symbol.for('aether.hold')] = (value) => { held.value = value; };
const HOLD = "function () { globalThis[Symbol.for('aether.hold')](this); }";

async function valueOf(remote) {
  if (remote.objectId === undefined) {
    if (remote.type === 'bigint') return BigInt(remote.unserializableValue.slice(0, -1));
    if (remote.unserializableValue !== undefined) return Number(remote.unserializableValue);
    return remote.value;
  }
  await post('Runtime.callFunctionOn', { objectId: remote.objectId, functionDeclaration: HOLD });
  await post('Runtime.releaseObject', { objectId: remote.objectId });
  // A symbol arrives wrapped.
  return remote.type === 'symbol' ? held.value.valueOf() : held.value;
}

function shown(value) {
  const text = util.inspect(value, { depth: 4, maxArrayLength: 100, maxStringLength: 10000, breakLength: 100 });
  return text.length > MOST_LETTERS ? text.slice(0, MOST_LETTERS) + '…' : text;
}

function report(error) {
  if (error instanceof Error || (error && typeof error.stack === 'string')) {
    const frames = String(error.stack).split('\n').filter((line) => !/\(?node:|\[eval\]|evalmachine|new Promise \(<anonymous>\)/.test(line));
    end(ERROR, String(error.name), String(error.message), frames.join('\n'));
  } else {
    end(ERROR, 'Error', shown(error), '');
  }
}

async function run(code) {
  let evaluation;
  const start = () => {
    evaluation = post('Runtime.evaluate', { expression: code, replMode: true, awaitPromise: true, userGesture: false });
  };
  globalThis[Symbol.for('aether.start')] = start;
  const interrupted = new Promise((resolve) => { interrupt = () => resolve(null); });
  send(BEGUN, Buffer.alloc(0));
  try {
    // Ctrl-C ends code that never comes back to the event loop only in here.
    vm.runInThisContext("globalThis[Symbol.for('aether.start')]()", { breakOnSigint: true });
  } catch (error) {
    if (error.code !== 'ERR_SCRIPT_EXECUTION_INTERRUPTED') throw error;
    end(INTERRUPTED, 'Interrupted', 'Ctrl-C', '');
    return;
  }
  const result = await Promise.race([evaluation, interrupted]);
  if (result === null) {
    end(INTERRUPTED, 'Interrupted', 'Ctrl-C', '');
  } else if (result.exceptionDetails) {
    const { exception, text } = result.exceptionDetails;
    report(exception ? await valueOf(exception) : new Error(text));
  } else {
    const value = await valueOf(result.result);
    if (value !== undefined) {
      globalThis._ = value;
      display(shown(value));
    }
    end(OK);
  }
}

let received = Buffer.alloc(0);
let turn = Promise.resolve();
link.on('data', (piece) => {
  received = Buffer.concat([received, piece]);
  while (received.length >= 5) {
    const length = received.readUInt32BE(0), kind = received.readUInt8(4);
    if (received.length < 5 + length) return;
    const code = received.toString('utf8', 5, 5 + length);
    received = received.subarray(5 + length);
    if (kind === RUN) turn = turn.then(() => run(code)).catch(report).then(() => { interrupt = null; });
  }
});
link.on('end', () => process.exit(1));
link.on('error', () => process.exit(1));
process.on('SIGINT', () => { if (interrupt) interrupt(); });
process.on('uncaughtException', (error) => console.error(error));
process.on('unhandledRejection', (error) => console.error(error));
globalThis.require = createRequire(process.cwd() + '/');
"""
