// The page: Hydrogen's view SDK logs in, syncs and shows one room, as the query says. What it finds is left in `window.found`.

import {
    Client,
    FeatureSet,
    LoadStatus,
    Platform,
    RoomView,
    RoomViewModel,
    createNavigation,
    createRouter,
    viewClassForTile,
} from "hydrogen-view-sdk";

const assetPaths = {
    downloadSandbox: "assets/download-sandbox.html",
    worker: "assets/main.js",
    olm: { wasm: "olm/olm.wasm", legacyBundle: "olm/olm_legacy.js", wasmBundle: "olm/olm.js" },
    serviceWorker: "sw.js",
};

async function main() {
    const asked = new URLSearchParams(window.location.search);
    const container = document.querySelector("#app");
    const platform = new Platform({ container, assetPaths, config: {}, options: { development: false } });
    const navigation = createNavigation();
    platform.setNavigation(navigation);
    await platform.init();
    const urlRouter = createRouter({ navigation, history: platform.history });
    urlRouter.attach();
    const client = new Client(platform);
    const login = await client.queryLogin(asked.get("homeserver")).result;
    client.startWithLogin(login.password(asked.get("user"), asked.get("password")));
    const ended = [LoadStatus.Ready, LoadStatus.Error, LoadStatus.LoginFailed];
    await client.loadStatus.waitFor((status) => ended.includes(status)).promise;
    if (client.loginFailure || client.loadError) {
        throw new Error(`no session: ${client.loginFailure ?? client.loadError}`);
    }
    const room = client.session.rooms.get(asked.get("room"));
    const features = await FeatureSet.load(platform.settingsStorage);
    const model = new RoomViewModel({
        room,
        ownUserId: client.session.userId,
        platform,
        urlRouter,
        navigation,
        features,
    });
    await model.load();
    container.appendChild(new RoomView(model, viewClassForTile).mount());
    return { user: client.session.userId, room: room.name };
}

main().then(
    (shown) => (window.found = { shown }),
    (error) => (window.found = { error: `${error.stack ?? error}` }),
);
