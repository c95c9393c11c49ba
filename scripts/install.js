'use strict';

// npm run test:install: publishes the packages to a registry on the loopback
// interface, installs them from there in empty folders with each package
// manager, and runs the README's quick start. The addon is that of the clone;
// with --release it is the one that "npm run release -- build" has made.

const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { setTimeout: delay } = require('node:timers/promises');
const { endChild, isRunning, startServer } = require('./lib/child');
const { onExit } = require('./lib/cleanup');
const {
  checkPlatform,
  hostPlatform,
  platforms,
  readManifest,
  writeMain,
  writePlatform,
} = require('./lib/packages');
const { cacheDir, npmCommand, root, which } = require('./lib/project');
const { startRegistry } = require('./lib/registry');
const { run } = require('./lib/run');
const { step, script, Problem } = require('./lib/steps');
const suites = require('./lib/suites');
const { installPackages, prepare } = require('./prepare');
const { startRabbit } = require('./rabbitmq');

/** One install, or one run of a compiler, takes so long at most. */
const LIMIT = 180_000;
const RUN_LIMIT = 30_000;
const TOOLS = {
  '@yarnpkg/cli-dist': '4.18.1',
  pnpm: '10.34.8',
  verdaccio: '6.5.2',
  yarn: '1.22.22',
};
/** Verdaccio asks for this one by a tag, which not every registry has. */
const TOOL_OVERRIDES = { 'node-fetch': '2.6.7' };
const TYPESCRIPT = ['typescript@5', '@types/node@20'];

/** @typedef {{ folder: string, node: string[] }} App how its programs are run */

/**
 * The package managers and the registry, kept between runs.
 *
 * @returns {Promise<(name: string, file: string) => string>}
 */
async function fetchTools() {
  const versions = Object.entries(TOOLS).map(([name, version]) =>
    [path.basename(name), version].join('-'),
  );
  const folder = path.join(cacheDir(), versions.join('-'));
  const done = path.join(folder, 'done');
  if (!fs.existsSync(done)) {
    step(`fetching ${versions.join(', ')}`);
    fs.mkdirSync(folder, { recursive: true });
    fs.writeFileSync(
      path.join(folder, 'package.json'),
      JSON.stringify({
        private: true,
        dependencies: TOOLS,
        overrides: TOOL_OVERRIDES,
      }),
    );
    const [command, ...args] = npmCommand();
    const result = await run(
      command,
      [...args, 'install', '--ignore-scripts', '--no-audit', '--no-fund'],
      { cwd: folder, prefix: '  npm | ', limit: 10 * 60_000 },
    );
    if (!result.ok) throw new Problem('npm could not fetch them.');
    fs.writeFileSync(done, '');
  }
  return (name, file) => path.join(folder, 'node_modules', name, file);
}

/**
 * An environment in which no setting of this machine's package managers holds.
 *
 * @param {string} home
 * @param {string} registry
 */
function cleanEnvironment(home, registry) {
  fs.mkdirSync(home);
  const npmrc = path.join(home, '.npmrc');
  const { host } = new URL(registry);
  fs.writeFileSync(
    npmrc,
    `registry=${registry}\n//${host}/:_authToken=none\naudit=false\nfund=false\nupdate-notifier=false\n`,
  );
  const inherited = Object.keys(process.env).filter((name) =>
    /^(npm_|pnpm_|yarn_|INIT_CWD$)/i.test(name),
  );
  return {
    ...Object.fromEntries(inherited.map((name) => [name, undefined])),
    HOME: home,
    USERPROFILE: home,
    XDG_CACHE_HOME: path.join(home, 'cache'),
    XDG_DATA_HOME: path.join(home, 'data'),
    NPM_CONFIG_CACHE: path.join(home, 'npm'),
    NPM_CONFIG_USERCONFIG: npmrc,
  };
}

/** @param {string} folder */
function newFolder(folder) {
  fs.mkdirSync(folder);
  return folder;
}

/** @param {string} folder @param {Record<string, string>} files */
function write(folder, files) {
  for (const [name, text] of Object.entries(files)) {
    fs.writeFileSync(path.join(folder, name), text);
  }
}

/** The programs of the README. @returns {Record<string, string>} */
function quickStart() {
  const readme = fs.readFileSync(path.join(root, 'README.md'), 'utf8');
  const found = readme.matchAll(/\*\*([\w.]+)\*\*:\n\n```\w+\n([^]*?)```\n/g);
  return Object.fromEntries(
    Array.from(found, ([, name, text]) => [name, text]),
  );
}

/**
 * The quick start as one program, in the syntax of ES modules.
 *
 * @param {string} keyType what TypeScript wants to know
 * @param {string} messageType
 */
const oneProgram = (keyType = '', messageType = '') => `
import http from 'node:http';
import { Client, MessageEnginError, server } from 'message-engin';

const httpServer = http.createServer();
await server.start(
  { url: 'memory:' },
  {
    httpServer,
    keyFn: (request${keyType}) => new URL(request.resource, 'ws://x').searchParams.get('user'),
    messageKeyFn: (message${messageType}) => message.to,
  },
);
const client = new Client({ url: 'memory:' });
client.on('message', (message) => {
  client.send(message);
});
await client.init();
if (!(new MessageEnginError('X', 'x') instanceof Error)) throw new Error();
console.log('worker: waiting for messages');
httpServer.listen(process.env.PORT, () => {
  const address = httpServer.address();
  if (!address || typeof address === 'string') throw new Error();
  console.log(\`gateway: listening on port \${address.port}\`);
});
`;

/**
 * Starts programs and waits for what they print; then a WebSocket sends a
 * message, gets it back, and all is ended.
 *
 * @param {App} app
 * @param {string[]} programs
 * @param {NodeJS.ProcessEnv} env
 */
async function echo({ folder, node }, programs, env) {
  const { WebSocket } = require('ws');
  const output = path.join(folder, `${programs.join('-')}.txt`);
  const text = () => fs.readFileSync(output, 'utf8');
  fs.writeFileSync(output, '');
  const children = programs.map((program) =>
    startServer([...node, program], {
      cwd: folder,
      env: { ...process.env, PORT: '0', ...env },
      output,
    }),
  );
  const limit = Date.now() + RUN_LIMIT;
  try {
    let port;
    while (!port || !text().includes('worker: waiting for messages')) {
      if (Date.now() > limit || !children.every(isRunning)) {
        throw new Problem(`${programs.join(', ')} did not start: ${text()}`);
      }
      await delay(20);
      [, port] = /^gateway: listening on port (\d+)$/m.exec(text()) ?? [];
    }
    const socket = new WebSocket(`ws://127.0.0.1:${port}/?user=bob`);
    const signal = AbortSignal.timeout(RUN_LIMIT);
    const answer = once(socket, 'message', { signal });
    await Promise.race([once(socket, 'open', { signal }), answer]);
    const sent = JSON.stringify({ to: 'bob', text: programs[0] });
    socket.send(sent);
    const [received] = await answer;
    socket.terminate();
    if (String(received) !== sent) {
      throw new Problem(`${sent} came back as ${received}`);
    }
  } finally {
    for (const child of children) await endChild(child, 'SIGTERM', 5_000);
  }
}

/**
 * @param {string[]} command
 * @param {string} cwd
 * @param {NodeJS.ProcessEnv} env
 */
async function command([file, ...args], cwd, env) {
  const result = await run(file, args, { cwd, env, quiet: true, limit: LIMIT });
  if (!result.ok) throw new Problem(result.lines.join('\n'));
  return result.lines.join('\n');
}

/**
 * Requires the package where it has no addon.
 *
 * @param {App} app
 * @param {NodeJS.ProcessEnv} env
 * @param {string[]} wanted what its error says
 */
async function expectNoAddon({ folder, node }, env, wanted) {
  const { name } = readManifest();
  const program = `require(${JSON.stringify(name)})`;
  const [file, ...args] = [...node, '--eval', program];
  const options = { cwd: folder, env, quiet: true, limit: RUN_LIMIT };
  const { ok, lines } = await run(file, args, options);
  const text = lines.join('\n');
  const lacks = ["code: 'ERR_NO_NATIVE_ADDON'", ...wanted].filter(
    (part) => !text.includes(part),
  );
  if (ok || lacks.length > 0) {
    throw new Problem(`${text}\nIt does not say ${lacks.join(', ')}`);
  }
}

/**
 * The addons that are installed in an app.
 *
 * @param {string} folder
 */
function installedAddons(folder) {
  const { name } = readManifest();
  // pnpm has them beside the package, in its store.
  const main = fs.realpathSync(path.join(folder, 'node_modules', name));
  return fs
    .readdirSync(path.dirname(main))
    .filter((entry) => entry.startsWith(`${name}-`));
}

/** @param {string[]} found @param {string[]} wanted */
function expectAddons(found, wanted) {
  if (found.sort().join() !== wanted.sort().join()) {
    throw new Problem(`installed: ${found.join(', ') || 'no addon'}`);
  }
}

/**
 * @param {string} temp
 * @param {string} registry
 * @param {Awaited<ReturnType<typeof fetchTools>>} tool
 * @param {string | null} amqpUrl
 * @returns {Record<string, () => Promise<void>>} checks by name
 */
function checks(temp, registry, tool, amqpUrl) {
  const { name } = readManifest();
  const env = cleanEnvironment(path.join(temp, 'home'), registry);
  const node = process.execPath;
  const host = hostPlatform().packageName;
  const npm = [...npmCommand()];
  const npmFolder = path.join(temp, 'npm');
  /** @type {App} */
  const npmApp = { folder: npmFolder, node: [node] };
  const pnpm = [node, tool('pnpm', 'bin/pnpm.cjs')];
  const classic = [node, tool('yarn', 'bin/yarn.js')];
  const berry = [node, tool('@yarnpkg/cli-dist', 'bin/yarn.js')];
  const compile = [node, 'node_modules/typescript/bin/tsc'];

  /** @param {string} folder @param {string[]} install @param {Record<string, string>} [files] */
  const app = async (folder, install, files = {}) => {
    newFolder(folder);
    write(folder, files);
    await command(install, folder, env);
    write(folder, quickStart());
  };
  const other = /** @type {ReturnType<typeof hostPlatform>} */ (
    platforms().find(({ os: system }) => system !== process.platform)
  );
  /** @param {string} linker @param {object} [supportedArchitectures] */
  const yarnrc = (linker, supportedArchitectures) => ({
    'yarn.lock': '',
    'package.json': '{ "private": true }\n',
    '.yarnrc.yml': JSON.stringify({
      npmRegistryServer: registry,
      unsafeHttpWhitelist: ['127.0.0.1'],
      nodeLinker: linker,
      supportedArchitectures,
      enableTelemetry: false,
      enableImmutableInstalls: false,
      // The packages are published just now.
      npmMinimalAgeGate: 0,
    }),
  });

  return {
    'npm install, quick start without RabbitMQ': async () => {
      await app(npmFolder, [...npm, 'install', name]);
      expectAddons(installedAddons(npmFolder), [host]);
      await echo(npmApp, ['memory.js'], env);
    },
    ...(amqpUrl && {
      'npm install, quick start with RabbitMQ': () =>
        echo(npmApp, ['server.js', 'client.js'], { ...env, AMQP_URL: amqpUrl }),
    }),
    'npm ci, from the lock file of the install': async () => {
      await command([...npm, 'ci'], npmFolder, env);
      expectAddons(installedAddons(npmFolder), [host]);
      await echo(npmApp, ['memory.js'], env);
    },
    'pnpm add': async () => {
      const folder = path.join(temp, 'pnpm');
      await app(folder, [...pnpm, 'add', name]);
      expectAddons(installedAddons(folder), [host]);
      await echo({ folder, node: [node] }, ['memory.js'], env);
    },
    'yarn 1 add': async () => {
      const folder = path.join(temp, 'yarn1');
      await app(folder, [...classic, 'add', name, '--no-progress']);
      // It does not know libc and installs both.
      const wanted = platforms()
        .filter(({ os: system, cpu }) => {
          return system === process.platform && cpu === process.arch;
        })
        .map(({ packageName }) => packageName);
      expectAddons(installedAddons(folder), wanted);
      await echo({ folder, node: [node] }, ['memory.js'], env);
    },
    'yarn 4 add, node-modules': async () => {
      const folder = path.join(temp, 'yarn4');
      await app(folder, [...berry, 'add', name], yarnrc('node-modules'));
      expectAddons(installedAddons(folder), [host]);
      await echo({ folder, node: [node] }, ['memory.js'], env);
    },
    "yarn 4 add, Plug'n'Play": async () => {
      const folder = path.join(temp, 'pnp');
      await app(folder, [...berry, 'add', name], yarnrc('pnp'));
      const plugged = [node, '--require', './.pnp.cjs'];
      await echo({ folder, node: plugged }, ['memory.js'], env);
    },
    'npm install --omit=optional: the error says so': async () => {
      const folder = path.join(temp, 'npm-omit');
      await app(folder, [...npm, 'install', '--omit=optional', name]);
      await expectNoAddon({ folder, node: [node] }, env, [
        `the package ${host}.`,
        '--omit=optional',
      ]);
    },
    'npm install for another system: the error says so': async () => {
      const folder = path.join(temp, 'npm-other');
      const flags = [`--os=${other.os}`, `--cpu=${other.cpu}`];
      await app(folder, [...npm, 'install', ...flags, name]);
      expectAddons(installedAddons(folder), [other.packageName]);
      await expectNoAddon({ folder, node: [node] }, env, [
        `Installed is ${other.packageName}: `,
      ]);
    },
    'pnpm add --no-optional: the error says so': async () => {
      const folder = path.join(temp, 'pnpm-omit');
      await app(folder, [...pnpm, 'add', '--no-optional', name]);
      await expectNoAddon({ folder, node: [node] }, env, [
        '--no-optional',
        'pnpm-workspace.yaml',
      ]);
    },
    "Plug'n'Play for another system: the error says so": async () => {
      const folder = path.join(temp, 'pnp-other');
      const files = yarnrc('pnp', { os: [other.os], cpu: [other.cpu] });
      await app(folder, [...berry, 'add', name], files);
      const plugged = [node, '--require', './.pnp.cjs'];
      await expectNoAddon({ folder, node: plugged }, env, ['.yarnrc.yml']);
    },
    'ES module': async () => {
      write(npmFolder, { 'app.mjs': oneProgram() });
      await echo(npmApp, ['app.mjs'], env);
    },
    'TypeScript, strict': async () => {
      const install = ['install', '--save-dev', ...TYPESCRIPT, 'esbuild'];
      await command([...npm, ...install], npmFolder, env);
      const program = oneProgram(': Request', ': { to: string }').replace(
        '{ Client,',
        '{ Client, type Request,',
      );
      // One is compiled to an ES module, the other to CommonJS.
      const inFunction = program
        .replace(/^(await server\.start)/m, 'async function main() {\n$1')
        .concat('}\nmain();\n');
      write(npmFolder, {
        'esm.mts': program,
        'commonjs.cts': inFunction,
        'tsconfig.json': JSON.stringify({
          compilerOptions: {
            strict: true,
            target: 'es2022',
            module: 'nodenext',
            esModuleInterop: true,
            types: ['node'],
          },
          files: ['esm.mts', 'commonjs.cts'],
        }),
      });
      await command(compile, npmFolder, env);
      await echo(npmApp, ['esm.mjs'], env);
      await echo(npmApp, ['commonjs.cjs'], env);
      const bundler = ['--module', 'esnext', '--moduleResolution', 'bundler'];
      await command([...compile, '--noEmit', ...bundler], npmFolder, env);
    },
    'esbuild, with the package external': async () => {
      for (const [source, file, format] of [
        ['esm.mts', 'bundle.mjs', 'esm'],
        ['commonjs.cts', 'bundle.cjs', 'cjs'],
      ]) {
        const options = {
          entryPoints: [source],
          outfile: file,
          bundle: true,
          platform: 'node',
          format,
          external: [name],
        };
        const build = `require('esbuild').buildSync(${JSON.stringify(options)})`;
        await command([node, '--eval', build], npmFolder, env);
        await echo(npmApp, [file], env);
      }
    },
    'esbuild, with the package in the bundle: the error says so': async () => {
      const folder = newFolder(path.join(temp, 'bundled'));
      const options = {
        stdin: { contents: `require('${name}')`, resolveDir: npmFolder },
        outfile: path.join(folder, 'bundle.cjs'),
        bundle: true,
        platform: 'node',
        // Otherwise esbuild itself has an error about the file of the addon.
        external: [host],
      };
      const build = `require('esbuild').buildSync(${JSON.stringify(options)})`;
      await command([node, '--eval', build], npmFolder, env);
      const bundled = [node, '--require', './bundle.cjs'];
      await expectNoAddon({ folder, node: bundled }, env, ['as external']);
    },
  };
}

/**
 * Packs and publishes the main package and those of all platforms. Of these
 * only this machine's has its addon: the others must not be installed.
 *
 * @param {string} temp
 * @param {string} registry
 * @param {boolean} released
 */
async function publish(temp, registry, released) {
  const host = hostPlatform();
  const env = cleanEnvironment(path.join(temp, 'publisher'), registry);
  const main = path.join(temp, 'package');
  writeMain(main);
  const folders = platforms().map((platform) => {
    if (released && platform.name === host.name) return platform.folder;
    const folder = path.join(temp, platform.name);
    const isHost = platform.name === host.name;
    const addon = path.join(root, isHost ? platform.file : 'LICENSE');
    writePlatform(platform, { addon, licences: {} }, folder);
    return folder;
  });
  const npmPublish = (/** @type {string} */ folder) =>
    command([...npmCommand(), 'publish', folder], temp, env);
  await Promise.all(folders.map(npmPublish));
  // Last, as in a release: what it depends on is there.
  await npmPublish(main);
}

/** A RabbitMQ, where there is one, or one can be started. */
async function rabbit() {
  if (process.env.AMQP_URL || which('rabbitmq-server')) return startRabbit();
  step('RabbitMQ: there is none, so the quick start runs without it alone');
  return null;
}

script(async () => {
  const released = process.argv.includes('--release');
  if (released) {
    checkPlatform(hostPlatform());
    await installPackages();
  } else {
    await prepare();
  }
  const tool = await fetchTools();
  const temp = fs.realpathSync(
    fs.mkdtempSync(path.join(os.tmpdir(), 'message-engin-install-')),
  );
  const remove = () => fs.rmSync(temp, { recursive: true, force: true });
  const forget = onExit(remove);
  const registry = await startRegistry(
    tool('verdaccio', 'bin/verdaccio'),
    path.join(temp, 'registry'),
    `${readManifest().name}*`,
  );
  step(`the registry answers at ${registry.url}`);
  await publish(temp, registry.url, released);
  step('the packages are published');
  const broker = await rabbit();
  const all = checks(temp, registry.url, tool, broker?.url ?? null);
  const total = await suites.runAll(
    Object.fromEntries(
      Object.entries(all).map(([name, check]) => [
        name,
        async () => {
          try {
            await check();
            return { passed: 1, failed: 0 };
          } catch (error) {
            console.log(error instanceof Problem ? error.message : error);
            return { passed: 0, failed: 1 };
          }
        },
      ]),
    ),
  );
  await broker?.stop();
  await registry.stop();
  forget();
  remove();
  suites.conclude('npm run test:install', total);
});
