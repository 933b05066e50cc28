// matrix-bot-sdk loads its cryptography, a native library, whether it is used or not. npm's lock file does not cover that
// library (a script downloads it), and nothing here encrypts: something empty takes its place.
const Module = require("node:module");

const load = Module._load;
Module._load = (name, ...rest) =>
  name === "@matrix-org/matrix-sdk-crypto-nodejs" ? {} : load.call(Module, name, ...rest);
