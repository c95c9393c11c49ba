'use strict';

// Messages and statuses pass inside Jest as they do anywhere.

const { once } = require('node:events');
const { open, texts } = require('./world');

let world;
beforeAll(async () => {
  world = await open('jest-echo');
});
afterAll(() => world.close());

test('a browser hears its messages again, in order', async () => {
  const socket = await world.connect('a');
  const heard = texts(socket, 300);
  const sent = Array.from({ length: 300 }, (_, n) => `{"n":${n},"t":"ä😀"}`);
  for (const text of sent) socket.send(text);
  expect(await heard).toEqual(sent);
});

test('values have the prototypes of the test, not of another realm', async () => {
  const socket = await world.connect('b');
  const message = once(world.client, 'message');
  socket.send('{"list":[1,{"two":2}]}');
  const [value, headers, info] = await message;
  expect(value).toStrictEqual({ list: [1, { two: 2 }] });
  expect(value.list).toBeInstanceOf(Array);
  expect(headers).toMatchObject({ to: 'b' });
  expect(Buffer.isBuffer(info.raw)).toBe(true);
});

test('a status comes for each coming and going', async () => {
  const came = once(world.client, 'status');
  const socket = await world.connect('c');
  expect((await came)[0]).toStrictEqual({ status: 1, key: 'c' });
  const left = once(world.client, 'status');
  socket.close(1000, 'done');
  expect((await left)[0]).toStrictEqual({
    status: 0,
    key: 'c',
    reasonCode: 1000,
    description: 'done',
  });
});
