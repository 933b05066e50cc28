// The whole of Hydrogen in a page: login, list of rooms, timeline, composer. Without the encryption
// library, since the conversations of this test are not encrypted.
import { FeatureSet, Platform, RootViewModel, createNavigation, createRouter } from "hydrogen-view-sdk";

const platform = new Platform({
    container: document.body,
    assetPaths: {
        downloadSandbox: "/assets/download-sandbox.html",
        worker: "/assets/main.js",
        serviceWorker: "/sw.js",
    },
    config: { defaultHomeServer: new URLSearchParams(location.search).get("server") ?? location.origin },
});
await platform.init();
const navigation = createNavigation();
platform.setNavigation(navigation);
const urlRouter = createRouter({ navigation, history: platform.history });
urlRouter.attach();
const features = await FeatureSet.load(platform.settingsStorage);
const root = new RootViewModel({ platform, urlRouter, navigation, features });
await root.load();
platform.createAndMountRootView(root);
