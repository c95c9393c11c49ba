'use strict';

// What is opened and closed leaves nothing behind for the next one.

const { once } = require('node:events');
const { open, texts } = require('./world');

test('open and close many times on one broker', async () => {
  for (let round = 0; round < 20; round += 1) {
    const world = await open('jest-again');
    const socket = await world.connect('k');
    const heard = texts(socket, 1);
    socket.send(`"round ${round}"`);
    expect(await heard).toEqual([`round ${round}`]);
    const closed = once(socket, 'close');
    await world.close();
    expect((await closed)[0]).toBe(1001);
  }
});

test('several gateways on one broker side by side', async () => {
  const worlds = await Promise.all([open('jest-wide'), open('jest-wide')]);
  const sockets = await Promise.all([
    worlds[0].connect('left'),
    worlds[1].connect('right'),
  ]);
  const heard = sockets.map((socket) => texts(socket, 1));
  worlds[0].client.send({ from: 'the other side' }, { to: 'right' });
  worlds[1].client.send({ from: 'the other side' }, { to: 'left' });
  for (const answer of heard) {
    expect(await answer).toEqual(['{"from":"the other side"}']);
  }
  await Promise.all(worlds.map((world) => world.close()));
});
