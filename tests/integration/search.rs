//! Client-Server API, "Server Side Search".

use std::collections::HashSet;

use hearth::rooms::{
    Reader, RoomEventFilter, SearchKey, SearchOrder, SearchPlace, SearchQuery, SearchRequest,
};
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
};

async fn create_room(client: &Client, body: Value) -> String {
    let answer = client.post("/_matrix/client/v3/createRoom", &body).await.ok();
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn say(client: &Client, room: &str, content: Value) -> String {
    let transaction = format!("{room}{content}")
        .bytes()
        .fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
    let answer = client.put(&path, &content).await.ok();
    answer["event_id"].as_str().unwrap().to_owned()
}

fn text(body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body })
}

async fn search(client: &Client, criteria: Value) -> Value {
    search_from(client, criteria, None).await
}

async fn search_from(client: &Client, criteria: Value, next_batch: Option<&str>) -> Value {
    let query = next_batch.map_or(String::new(), |token| format!("?next_batch={token}"));
    let body = json!({ "search_categories": { "room_events": criteria } });
    let path = format!("/_matrix/client/v3/search{query}");
    let mut answer = client.post(&path, &body).await.ok();
    answer["search_categories"]["room_events"].take()
}

async fn find(client: &Client, term: &str) -> Vec<String> {
    bodies(&search(client, json!({ "search_term": term, "order_by": "recent" })).await)
}

fn bodies(found: &Value) -> Vec<String> {
    let results = found["results"].as_array().unwrap().iter();
    let body = |result: &Value| result["result"]["content"]["body"].as_str().unwrap().to_owned();
    results.map(body).collect()
}

both_databases! {
    async fn every_page_says_how_much_was_found(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        for number in 0..5 {
            say(&alice, &room, text(&format!("pea {number}"))).await;
        }
        for order in ["recent", "rank"] {
            let (mut next, mut seen) = (String::new(), 0);
            for _ in 0..3 {
                let criteria = json!({
                    "search_term": "pea", "order_by": order, "filter": { "limit": 2 },
                });
                let body = json!({ "search_categories": { "room_events": criteria } });
                let path = format!("/_matrix/client/v3/search?next_batch={next}");
                let path = if next.is_empty() { "/_matrix/client/v3/search" } else { &path };
                let answer = alice.post(path, &body).await.ok();
                let found = &answer["search_categories"]["room_events"];
                assert_eq!(found["count"], 5, "{order}: {found}");
                seen += found["results"].as_array().unwrap().len();
                next = found["next_batch"].as_str().unwrap_or_default().to_owned();
            }
            assert_eq!(seen, 5, "{order}");
        }
    }

    async fn messages_names_and_topics_are_found_by_their_words(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({ "name": "Tea house", "topic": "All about tea" })).await;
        say(&alice, &room, text("Green TEA, please")).await;
        say(&alice, &room, text("Coffee, please")).await;
        say(&alice, &room, text("今天天气很好")).await;
        say(&alice, &room, text("회의는 내일입니다")).await;
        say(&alice, &room, text("東京タワーへ行きました")).await;

        assert_eq!(find(&alice, "please tea").await, ["Green TEA, please"]);
        assert_eq!(find(&alice, "please").await, ["Coffee, please", "Green TEA, please"]);
        assert_eq!(find(&alice, "天气").await, ["今天天气很好"]);
        assert_eq!(find(&alice, "내일").await, ["회의는 내일입니다"]);
        assert_eq!(find(&alice, "タワー").await, ["東京タワーへ行きました"]);
        for nothing in ["milk", "", "?!", "pleas"] {
            assert!(find(&alice, nothing).await.is_empty(), "{nothing}");
        }
        let all = search(&alice, json!({ "search_term": "tea" })).await;
        assert_eq!(all["count"], 3);
        assert_eq!(all["highlights"], json!(["tea"]));
        let mut kinds: Vec<_> = all["results"].as_array().unwrap().iter()
            .map(|result| result["result"]["type"].as_str().unwrap()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["m.room.message", "m.room.name", "m.room.topic"]);
        let names = search(&alice, json!({ "search_term": "tea", "keys": ["content.name"] })).await;
        assert_eq!(names["results"][0]["result"]["type"], "m.room.name");
        assert_eq!(names["results"].as_array().unwrap().len(), 1);
    }

    async fn search_finds_only_what_the_user_may_see(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let history = json!([{
            "type": "m.room.history_visibility", "content": { "history_visibility": "joined" },
        }]);
        let room = create_room(&alice, json!({
            "preset": "public_chat", "initial_state": history,
        })).await;
        say(&alice, &room, text("secret before")).await;
        assert!(find(&bob, "secret").await.is_empty());
        bob.post(&format!("/_matrix/client/v3/join/{room}"), &json!({})).await.ok();
        say(&alice, &room, text("secret between")).await;
        bob.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), &json!({})).await.ok();
        say(&alice, &room, text("secret after")).await;
        assert_eq!(find(&bob, "secret").await, ["secret between"]);
        assert_eq!(find(&alice, "secret").await, ["secret after", "secret between", "secret before"]);
        // Not even how many others there are is told.
        for order in ["recent", "rank"] {
            let filter = json!({ "limit": 1 });
            let criteria = json!({ "search_term": "secret", "order_by": order, "filter": filter });
            assert_eq!(search(&bob, criteria.clone()).await["count"], 1, "{order}");
            assert_eq!(search(&alice, criteria).await["count"], 3, "{order}");
        }

        let ignored = json!({ "ignored_users": { &alice.user_id: {} } });
        let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", bob.user_id);
        bob.put(&path, &ignored).await.ok();
        assert!(find(&bob, "secret").await.is_empty());
        bob.put(&path, &json!({ "ignored_users": {} })).await.ok();
        bob.post(&format!("/_matrix/client/v3/rooms/{room}/forget"), &json!({})).await.ok();
        assert!(find(&bob, "secret").await.is_empty());
    }

    async fn edits_and_redactions_change_what_is_found(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        bob.post(&format!("/_matrix/client/v3/join/{room}"), &json!({})).await.ok();
        let message = say(&alice, &room, text("the old words")).await;
        assert_eq!(find(&alice, "words").await, ["the old words"]);
        let edit = |body: &str| json!({
            "msgtype": "m.text", "body": format!("* {body}"), "m.new_content": text(body),
            "m.relates_to": { "rel_type": "m.replace", "event_id": message },
        });
        say(&alice, &room, edit("the new words")).await;
        // Nobody edits what others have said.
        say(&bob, &room, edit("the forged words")).await;
        let found = search(&alice, json!({ "search_term": "new" })).await;
        assert_eq!(found["results"].as_array().unwrap().len(), 1);
        let result = &found["results"][0]["result"];
        assert_eq!(result["event_id"], message);
        let edited = &result["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"];
        assert_eq!(edited["body"], "the new words");
        assert!(find(&alice, "old").await.is_empty());
        assert!(find(&alice, "forged").await.is_empty());

        let path = format!("/_matrix/client/v3/rooms/{room}/redact/{message}/r1");
        alice.put(&path, &json!({})).await.ok();
        assert!(find(&alice, "words").await.is_empty());
    }

    async fn results_come_page_by_page_in_both_orders(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({})).await;
        for number in 0..7 {
            say(&alice, &room, text(&format!("tea {}{number}", "and more ".repeat(number)))).await;
        }
        for order in ["recent", "rank"] {
            let criteria = json!({
                "search_term": "tea", "order_by": order, "filter": { "limit": 3 },
            });
            let mut seen = Vec::new();
            let mut token = None;
            let mut pages = 0;
            loop {
                let page = search_from(&alice, criteria.clone(), token.as_deref()).await;
                seen.extend(bodies(&page));
                pages += 1;
                token = page["next_batch"].as_str().map(ToOwned::to_owned);
                if token.is_none() {
                    break;
                }
            }
            assert_eq!(pages, 3, "{order}");
            let last = |body: &String| body.chars().last().unwrap();
            let expect = if order == "recent" { "6543210" } else { "0123456" };
            assert_eq!(seen.iter().map(last).collect::<String>(), expect, "{order}");
        }
        let body = json!({ "search_categories": { "room_events": { "search_term": "tea" } } });
        let wrong = alice.post("/_matrix/client/v3/search?next_batch=nonsense", &body).await;
        wrong.error(400, "M_INVALID_PARAM");
        let wrong = alice.post("/_matrix/client/v3/search", &json!({ "search_categories": 1 })).await;
        wrong.error(400, "M_BAD_JSON");
        server.client().post("/_matrix/client/v3/search", &body).await.error(401, "M_MISSING_TOKEN");
    }

    async fn results_have_context_groups_and_state(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let one = create_room(&alice, json!({ "preset": "public_chat", "name": "one" })).await;
        let two = create_room(&alice, json!({ "preset": "public_chat", "name": "two" })).await;
        bob.post(&format!("/_matrix/client/v3/join/{one}"), &json!({})).await.ok();
        for room in [&one, &two] {
            say(&alice, room, text("earlier")).await;
            say(&alice, room, text("a needle")).await;
            say(&alice, room, text("later")).await;
        }
        say(&bob, &one, text("another needle")).await;
        let found = search(&alice, json!({
            "search_term": "needle", "order_by": "recent", "include_state": true,
            "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
            "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
        })).await;
        assert_eq!(bodies(&found), ["another needle", "a needle", "a needle"]);
        let context = &found["results"][1]["context"];
        assert_eq!(context["events_before"][0]["content"]["body"], "earlier");
        assert_eq!(context["events_after"][0]["content"]["body"], "later");
        assert_eq!(context["profile_info"][&alice.user_id]["displayname"], "alice");
        let older = format!("/_matrix/client/v3/rooms/{two}/messages?dir=b&limit=1&from={}",
            context["start"].as_str().unwrap());
        alice.get(&older).await.ok();
        assert!(found["results"][0]["context"]["events_after"].as_array().unwrap().is_empty());
        let groups = &found["groups"];
        assert_eq!(groups["room_id"][&one]["order"], 1);
        assert_eq!(groups["room_id"][&one]["results"].as_array().unwrap().len(), 2);
        assert_eq!(groups["room_id"][&two]["results"].as_array().unwrap().len(), 1);
        assert_eq!(groups["sender"][&alice.user_id]["results"].as_array().unwrap().len(), 2);
        let names = found["state"][&two].as_array().unwrap().iter();
        assert!(names.clone().any(|event| event["content"]["name"] == "two"));

        // The second page of a group has nothing of the others.
        let criteria = json!({
            "search_term": "needle", "order_by": "recent", "filter": { "limit": 1 },
            "groupings": { "group_by": [{ "key": "room_id" }] },
        });
        let first = search(&alice, criteria.clone()).await;
        let token = first["groups"]["room_id"][&one]["next_batch"].as_str().unwrap();
        let second = search_from(&alice, criteria, Some(token)).await;
        assert_eq!(second["results"][0]["result"]["room_id"], one.as_str());
        assert_eq!(bodies(&second), ["a needle"]);
        let filtered = json!({ "search_term": "needle", "filter": { "rooms": [two] } });
        assert_eq!(bodies(&search(&alice, filtered).await), ["a needle"]);
    }

    async fn pages_with_states_end_before_these_are_too_much(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let mut said = Vec::new();
        for room in 0..3 {
            let id = create_room(&alice, json!({})).await;
            for number in 0..2 {
                said.push(say(&alice, &id, text(&format!("needle {room} {number}"))).await);
            }
        }
        said.reverse();
        let user_id = alice.user_id.as_str().try_into().unwrap();
        let ignored = HashSet::new();
        let reader = Reader { user_id, device_id: None, ignored: &ignored, now_ms: 0, with_room_id: true };
        for order in [SearchOrder::Recent, SearchOrder::Rank] {
            let mut request = SearchRequest {
                query: SearchQuery::parse("needle"),
                keys: vec![SearchKey::Body],
                filter: RoomEventFilter::default(),
                order,
                limit: 10,
                from: SearchPlace::START,
                sender: None,
                // A new room has more than half as many.
                state_events_max: Some(8),
            };
            let mut pages: Vec<Vec<String>> = Vec::new();
            loop {
                let page = server.app.search.search(&reader, &request).await.unwrap();
                assert_eq!(page.count, 6);
                let ids = page.hits.iter().map(|hit| hit.event.event.event_id().to_string());
                pages.push(ids.collect());
                let Some(next) = page.next else { break };
                request.from = next;
            }
            pages.retain(|page| !page.is_empty());
            assert_eq!(pages, said.chunks(2).map(<[_]>::to_vec).collect::<Vec<_>>(), "{order:?}");
        }
        server.stop().await;
    }

    async fn an_edit_in_another_room_finds_nothing_of_this_one(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, mallory) = (server.register("alice").await, server.register("mallory").await);
        let room = create_room(&alice, json!({})).await;
        let secret = say(&alice, &room, text("the secret needle")).await;
        let own = create_room(&mallory, json!({})).await;
        let edit = json!({
            "msgtype": "m.text", "body": "* needle", "m.new_content": text("the secret needle"),
            "m.relates_to": { "rel_type": "m.replace", "event_id": secret },
        });
        say(&mallory, &own, edit).await;
        assert_eq!(find(&mallory, "needle").await, [""; 0]);
        assert_eq!(find(&alice, "needle").await, ["the secret needle"]);
    }
}
