"""Which context variables a task's templates read."""

from __future__ import annotations

import pytest

from agentpipe.config.mcp_servers import BUILT_IN, Catalogue
from agentpipe.core.context import Context
from agentpipe.core.secret_names import is_credential
from agentpipe.engines.models.providers import PROVIDERS

SECRETS = [
    "GITHUB_PERSONAL_ACCESS_TOKEN",
    "api_key",
    "ApiKey",
    "OPENAI_APIKEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "DB_PASSWORD",
    "dbpass",
    "SSH_PASSPHRASE",
    "PGPASSWD",
    "MYSQL_PWD",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "SERVICE_CREDS",
    "GITHUB_PAT",
    "LOGIN_PIN",
    "HTTP_AUTHORIZATION",
    "BASIC_AUTH",
    "SESSION_COOKIE",
    "SLACK_WEBHOOK_URL",
    "SENTRY_DSN",
    "JWT",
    "PRIVATE_PEM",
    "SMTP_PW",
    "MYPW",
    "DBCREDS",
    "SEED_PHRASE",
    "WALLET_SEED",
    "HMAC",
    "NETRC",
    "MFA_CODE",
    "MASTER_PHRASE",
    "SERVICE_ACCOUNT",
]
SETTINGS = [
    "GITHUB_PERSONAL_ACCOUNT_NAME",
    "FILESYSTEM_DIRECTORY",
    "SLACK_TEAM_ID",
    "GOOGLE_DRIVE_FOLDER_ID",
    "OPENAI_BASE_URL",
    "PORT",
    "PATH",
    "AUTHOR",
    "KEYWORD",
    "KEYBOARD_LAYOUT",
    "PASSENGERS",
    "PATTERN",
    "SHOPPING_LIST",
    "MODEL_NAME",
    "RANDOM_SEED",
]
VALUES = [
    "postgres://zoe:hunter2@db/x",
    "sk-proj-0123456789abcdefghijklmn",
    "ghp_" + "a1B2" * 10,
    "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
    "\ud800",
    "Endpoint=https://x;AccountKey=abc",
    "Server=db;Password=abc",
    "https://files/x?sv=1&sig=abc",
    "https://api/x?api_key=abc",
    "https://0123abcd@o1.ingest.example/7",
    "Bearer abc",
    "-----BEGIN RSA PRIVATE KEY-----",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_name_that_reads_like_a_secret_is_hidden_in_any_case(name: str) -> None:
    for each in (name, name.lower(), name.upper()):
        assert is_credential(each, "plain")


@pytest.mark.parametrize("name", SETTINGS)
def test_others_are_read(name: str) -> None:
    assert not is_credential(name, "plain")


@pytest.mark.parametrize("value", VALUES)
def test_a_value_that_reads_like_a_credential_is_hidden_whatever_its_name(value: str) -> None:
    assert is_credential("PLACE", value)
    assert not is_credential("PLACE", "postgres://db:5432/x")


@pytest.mark.parametrize("name", sorted({n for each in PROVIDERS.values() for n in each.key_names}))
def test_each_providers_key_is_hidden(name: str) -> None:
    assert is_credential(name, "plain")


def test_the_keys_of_built_in_servers_are_hidden() -> None:
    open_ones = {name for name in Catalogue(BUILT_IN).names() if not is_credential(name, "plain")}
    # Addresses are masked by value, if they contain a password.
    assert open_ones <= {
        "FILESYSTEM_DIRECTORY",
        "DATABASE_URI",
        "FILESYSTEM_TEST_DIR",
        "POSTGRES_ADDRESS",
        "SLACK_TEAM_ID",
    }


def test_public_is_the_exact_list() -> None:
    env = {"API_KEY": "k", "PLACE": "north"}
    assert dict(Context(env).readable) == {"PLACE": "north"}
    assert dict(Context(env, public=frozenset(["API_KEY"])).readable) == {"API_KEY": "k"}
    assert dict(Context(env, public=frozenset()).readable) == {}


def test_what_to_do_is_said_for_each_hidden_name() -> None:
    context = Context({"API_KEY": "k", "PLACE": "north"})
    (problem,) = context.hidden_problems(["{{ API_KEY }} {{PLACE}}", {"x": "{{API_KEY}} {{ NO }}"}])
    assert "`public: [API_KEY]`" in problem
    assert context.hidden_problems("{{ PLACE }} {{ OTHER_KEY }}") == []
