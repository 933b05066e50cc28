//! `/pushrules` (Client-Server API, "Push Rules: API").

use axum::extract::State;
use ruma::{
    OwnedRoomId, OwnedUserId, UserId,
    push::{
        Action as PushAction, AnyPushRuleRef, NewConditionalPushRule, NewPatternedPushRule,
        NewPushRule, NewSimplePushRule, PushCondition, RuleKind,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::register::capitalize;
use crate::{
    accounts::push_rules::{ChangePushRulesError, PushRuleChange},
    http::{
        App, AppState,
        auth::UserSession,
        error::{MatrixError, MatrixResult},
        json::{Empty, Json, JsonBody, Path, Query},
        rate_limit::Action,
    },
};

#[derive(Debug, Deserialize)]
pub struct PlaceQuery {
    before: Option<String>,
    after: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct RuleRequest {
    actions: Vec<PushAction>,
    #[serde(default)]
    conditions: Vec<PushCondition>,
    pattern: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct EnabledRequest {
    enabled: bool,
}

#[derive(Debug, Deserialize)]
pub struct ActionsRequest {
    actions: Vec<PushAction>,
}

/// `GET /pushrules/`.
pub async fn get_all(
    State(app): State<AppState>,
    session: UserSession,
) -> MatrixResult<Json<Value>> {
    let rules = app.accounts.load_push_rules(&session.user_id).await?;
    Ok(Json(json!({ "global": rules.to_global() })))
}

/// `GET /pushrules/global/`.
pub async fn get_global(
    State(app): State<AppState>,
    session: UserSession,
) -> MatrixResult<Json<Value>> {
    Ok(Json(app.accounts.load_push_rules(&session.user_id).await?.to_global()))
}

/// `GET /pushrules/global/{kind}/{ruleId}`.
pub async fn get_rule(
    State(app): State<AppState>,
    session: UserSession,
    Path((kind, rule_id)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    // Kinds of later proposals are asked for in the hope that they are not there.
    let no_such_kind = |_| MatrixError::not_found("There is no such kind of push rules.");
    let kind = parse_kind(&kind).map_err(no_such_kind)?;
    with_rule(&app, &session.user_id, kind, &rule_id, |rule| match rule {
        AnyPushRuleRef::Override(rule)
        | AnyPushRuleRef::PostContent(rule)
        | AnyPushRuleRef::Underride(rule) => json!(rule),
        AnyPushRuleRef::Content(rule) => json!(rule),
        AnyPushRuleRef::Room(rule) => json!(rule),
        AnyPushRuleRef::Sender(rule) => json!(rule),
        // Ruma names no further kinds that the switch above lets through.
        _ => Value::Null,
    })
    .await
}

/// `PUT /pushrules/global/{kind}/{ruleId}`.
pub async fn set_rule(
    State(app): State<AppState>,
    session: UserSession,
    Path((kind, rule_id)): Path<(String, String)>,
    Query(place): Query<PlaceQuery>,
    JsonBody(request): JsonBody<RuleRequest>,
) -> MatrixResult<Json<Empty>> {
    let rule = build_rule(parse_kind(&kind)?, rule_id, request)?;
    let PlaceQuery { before, after } = place;
    change(&app, &session, PushRuleChange::Insert { rule, before, after }).await
}

/// `DELETE /pushrules/global/{kind}/{ruleId}`.
pub async fn delete_rule(
    State(app): State<AppState>,
    session: UserSession,
    Path((kind, rule_id)): Path<(String, String)>,
) -> MatrixResult<Json<Empty>> {
    let kind = parse_kind(&kind)?;
    change(&app, &session, PushRuleChange::Remove { kind, rule_id }).await
}

/// `GET /pushrules/global/{kind}/{ruleId}/enabled`.
pub async fn get_enabled(
    State(app): State<AppState>,
    session: UserSession,
    Path((kind, rule_id)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    let kind = parse_kind(&kind)?;
    let read = |rule: AnyPushRuleRef<'_>| json!({ "enabled": rule.enabled() });
    with_rule(&app, &session.user_id, kind, &rule_id, read).await
}

/// `PUT /pushrules/global/{kind}/{ruleId}/enabled`.
pub async fn set_enabled(
    State(app): State<AppState>,
    session: UserSession,
    Path((kind, rule_id)): Path<(String, String)>,
    JsonBody(EnabledRequest { enabled }): JsonBody<EnabledRequest>,
) -> MatrixResult<Json<Empty>> {
    let kind = parse_kind(&kind)?;
    change(&app, &session, PushRuleChange::Enable { kind, rule_id, enabled }).await
}

/// `GET /pushrules/global/{kind}/{ruleId}/actions`.
pub async fn get_actions(
    State(app): State<AppState>,
    session: UserSession,
    Path((kind, rule_id)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    let kind = parse_kind(&kind)?;
    let read = |rule: AnyPushRuleRef<'_>| json!({ "actions": rule.actions() });
    with_rule(&app, &session.user_id, kind, &rule_id, read).await
}

/// `PUT /pushrules/global/{kind}/{ruleId}/actions`.
pub async fn set_actions(
    State(app): State<AppState>,
    session: UserSession,
    Path((kind, rule_id)): Path<(String, String)>,
    JsonBody(ActionsRequest { actions }): JsonBody<ActionsRequest>,
) -> MatrixResult<Json<Empty>> {
    let kind = parse_kind(&kind)?;
    change(&app, &session, PushRuleChange::SetActions { kind, rule_id, actions }).await
}

impl From<ChangePushRulesError> for MatrixError {
    fn from(error: ChangePushRulesError) -> Self {
        let message = capitalize(&error.to_string());
        match error {
            ChangePushRulesError::NotFound => Self::not_found(message),
            ChangePushRulesError::Predefined
            | ChangePushRulesError::InvalidId
            | ChangePushRulesError::InvalidPlace => Self::invalid_param(message),
            ChangePushRulesError::TooMany => Self::bad_request(message),
            ChangePushRulesError::Storage(error) => error.into(),
        }
    }
}

async fn with_rule(
    app: &App,
    user_id: &UserId,
    kind: RuleKind,
    rule_id: &str,
    read: impl FnOnce(AnyPushRuleRef<'_>) -> Value,
) -> MatrixResult<Json<Value>> {
    let rules = app.accounts.load_push_rules(user_id).await?;
    match rules.global.get(kind, rule_id) {
        Some(rule) => Ok(Json(read(rule))),
        None => Err(ChangePushRulesError::NotFound.into()),
    }
}

async fn change(
    app: &App,
    session: &UserSession,
    change: PushRuleChange,
) -> MatrixResult<Json<Empty>> {
    app.rate_limits.take(Action::Change, session, app.clock.now_ms())?;
    app.accounts.change_push_rules(&session.user_id, change).await?;
    Ok(Json(Empty {}))
}

fn parse_kind(kind: &str) -> MatrixResult<RuleKind> {
    Ok(match kind {
        "override" => RuleKind::Override,
        "underride" => RuleKind::Underride,
        "sender" => RuleKind::Sender,
        "room" => RuleKind::Room,
        "content" => RuleKind::Content,
        // MSC4306, with either of its names.
        "postcontent" | "io.element.msc4306.postcontent" => RuleKind::PostContent,
        _ => return Err(MatrixError::invalid_param("There is no such kind of push rules.")),
    })
}

fn build_rule(kind: RuleKind, rule_id: String, request: RuleRequest) -> MatrixResult<NewPushRule> {
    let RuleRequest { actions, conditions, pattern } = request;
    let conditional = |rule_id| NewConditionalPushRule::new(rule_id, conditions, vec![]);
    Ok(match kind {
        RuleKind::Override => {
            let mut rule = conditional(rule_id);
            rule.actions = actions;
            NewPushRule::Override(rule)
        }
        RuleKind::Underride => {
            let mut rule = conditional(rule_id);
            rule.actions = actions;
            NewPushRule::Underride(rule)
        }
        RuleKind::Sender => {
            let sender: OwnedUserId = parse_id(&rule_id)?;
            NewPushRule::Sender(NewSimplePushRule::new(sender, actions))
        }
        RuleKind::Room => {
            let room: OwnedRoomId = parse_id(&rule_id)?;
            NewPushRule::Room(NewSimplePushRule::new(room, actions))
        }
        // MSC4306: clients can make no rules of this kind.
        RuleKind::PostContent => {
            return Err(MatrixError::invalid_param("Nobody has rules of their own of this kind."));
        }
        _ => {
            let missing = || MatrixError::missing_param("`pattern` is missing.");
            let pattern = pattern.ok_or_else(missing)?;
            NewPushRule::Content(NewPatternedPushRule::new(rule_id, pattern, actions))
        }
    })
}

/// The ID of a rule for a room or sender is the room's or sender's.
fn parse_id<T: DeserializeOwned>(rule_id: &str) -> MatrixResult<T> {
    serde_json::from_value(Value::from(rule_id))
        .map_err(|_| MatrixError::invalid_param("The ID of this rule must be a room or user."))
}
