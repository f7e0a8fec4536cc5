"""MCP-Universe's names, as data: its types, their keys, its evaluators; and what of them is native.

Native is what our own engines run. All else of MCP-Universe's is run by its own code, the engine
``mcpuniverse``, and what that does not know either is a mistake. Nothing of it is imported here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_servers import VARIABLE, listed_names
from agentpipe.core.did_you_mean import did_you_mean, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.config.yaml_source import Document, KeyPath
    from agentpipe.core.task import Task
    from agentpipe.errors import Problem

VERSION = "mcpuniverse 1.1.3"
NATIVE_ENGINE, PEER_ENGINE = "llm", "mcpuniverse"


@dataclass(frozen=True, slots=True)
class Type:
    """A type of component.

    Attributes:
        names: What a file may call it, its class first.
        keys: What its config may hold beside references.
        references: Keys that must name other components, with the kinds that these may be of.
        native: Our own engines have it.
    """

    names: tuple[str, ...]
    keys: frozenset[str]
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    native: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _by_name(types: Iterable[Type]) -> dict[str, Type]:
    return {name: each for each in types for name in each.names}


# Agents and workflows.

_LLM: Mapping[str, tuple[str, ...]] = {"llm": ("llm",)}
_AGENT_KEYS = _words(
    "name instruction system_prompt tools_prompt template_vars servers resources"
    " use_llm_tool_api mcp_gateway_url"
)
_LOOP_KEYS = _AGENT_KEYS | _words("context_examples max_iterations summarize_tool_response")
_TRAIN_KEYS = _words(
    "max_iterations summarize_tool_response reject_long_response tool_result_max_length token_limit"
    " summarizer_gcp_project summarizer_max_rounds summarizer_model summarizer_type"
)

# Without a reason to be run by MCP-Universe: keys that our engine heeds, and values that say no
# more than leaving the key out. An empty value says no more either.
NATIVE_AGENT_KEYS = _words("llm name instruction servers max_iterations")
NATIVE_SERVER_KEYS = _words("name tools transport")
# Servers that come with its package.
PACKAGE_SERVERS = _words(
    "blender date echo google-search google-sheets jina-scrape-llm-summary python-code-sandbox"
    " serper-search weather wikipedia yfinance"
)
_SAYS_NOTHING = {"use_llm_tool_api": "no"}

AGENTS = _by_name(
    (
        Type(("BasicAgent", "basic"), _AGENT_KEYS, _LLM, native=True),
        Type(
            ("FunctionCall", "function-call", "function_call", "fc"), _LOOP_KEYS, _LLM, native=True
        ),
        Type(
            (
                "FunctionCallWideResearch",
                "function_call_wide_research",
                "function-call-wide-research",
                "fc_wide_research",
            ),
            _LOOP_KEYS | {"scheduler_mode"},
            _LLM,
        ),
        Type(
            ("FunctionCallWideResearchClaude", "function_call_wide_research_claude"),
            _LOOP_KEYS | {"scheduler_mode"},
            _LLM,
        ),
        Type(("ReAct", "react"), _LOOP_KEYS, _LLM),
        Type(("HarmonyReAct", "harmony_react"), _LOOP_KEYS, _LLM),
        Type(("Reflection", "reflection"), _LOOP_KEYS | {"reflection_prompt"}, _LLM),
        Type(
            ("ExploreAndExploit", "explore_and_exploit", "explore_exploit"),
            _LOOP_KEYS | {"exploration_phase_iterations"},
            _LLM,
        ),
        Type(("ReActTrain", "react_train", "react_qwen3"), _AGENT_KEYS | _TRAIN_KEYS, _LLM),
        Type(
            ("ClaudeCodeAgent", "claude-code", "claude_code"),
            _AGENT_KEYS | _words("max_iterations disallowed_tools"),
        ),
        Type(("WorkflowAgent", "workflow"), _AGENT_KEYS, {"workflow": ("workflow", "agent")}),
    )
)

_STEPS = ("agent", "workflow")
WORKFLOWS = _by_name(
    (
        Type(("Chain", "chain"), frozenset(), {"agents": _STEPS}),
        Type(
            ("Parallelization", "parallelization"),
            frozenset(),
            {"agents": _STEPS, "aggregator": _STEPS},
        ),
        Type(("Router", "router"), _words("top_k"), {**_LLM, "agents": _STEPS}),
        Type(
            ("Orchestrator", "orchestrator"),
            _words("plan_type max_iterations"),
            {**_LLM, "agents": _STEPS},
        ),
        Type(
            ("EvaluatorOptimizer", "evaluator-optimizer"),
            _words("max_iterations min_rating"),
            {"optimizer": _STEPS, "evaluator": _STEPS},
        ),
    )
)

# Models.

NATIVE_LLM_KEYS = _words(
    "model_name base_url api_key temperature top_p frequency_penalty presence_penalty"
    " max_completion_tokens max_tokens seed reasoning_effort reasoning parallel_tool_calls"
    " timeout ollama_url"
)
_MODEL_KEYS = _words("model_name api_key temperature top_p max_completion_tokens")
_SAMPLING_KEYS = _MODEL_KEYS | _words("frequency_penalty presence_penalty seed")
_OPENAI_KEYS = _SAMPLING_KEYS | _words("base_url reasoning_effort parallel_tool_calls timeout")
_THINKING_KEYS = _MODEL_KEYS | _words("thinking_budget_tokens")

LLMS = _by_name(
    (
        Type(("OpenAIModel", "openai"), _OPENAI_KEYS, native=True),
        Type(("ClaudeModel", "claude"), _MODEL_KEYS, native=True),
        Type(("GeminiModel", "gemini"), _SAMPLING_KEYS, native=True),
        Type(("MistralModel", "mistral"), _SAMPLING_KEYS, native=True),
        Type(("GrokModel", "grok"), _SAMPLING_KEYS, native=True),
        Type(("DeepSeekModel", "deepseek"), _SAMPLING_KEYS, native=True),
        Type(
            ("OllamaModel", "ollama"),
            (_SAMPLING_KEYS | {"ollama_url"}) - {"api_key"},
            native=True,
        ),
        Type(
            ("OpenRouterModel", "openrouter"),
            _SAMPLING_KEYS | _words("reasoning parallel_tool_calls"),
            native=True,
        ),
        Type(
            ("LocalLLMModel", "local_llm", "vllm_local", "sglang_local"),
            _SAMPLING_KEYS | _words("base_url reasoning"),
            native=True,
        ),
        Type(("OpenAIAgentModel", "openai-agent", "openai-agentic"), _OPENAI_KEYS),
        Type(("ClaudeGatewayModel", "claude_gateway"), _THINKING_KEYS | {"model_url"}),
        Type(("ClaudeWRModel", "claude_wr"), _THINKING_KEYS | _words("base_url timeout")),
        Type(("SFLLMExpressGatewayModel", "sf_llm_express_gateway"), _OPENAI_KEYS),
        Type(("SFResearchGatewayModel", "sf_research_gateway"), _THINKING_KEYS | {"base_url"}),
    )
)
TYPES = {"agent": AGENTS, "llm": LLMS, "workflow": WORKFLOWS}

# Tasks.

PREPARES = _words(
    "download_filesystem_environment mcpmark_filesystem_setup mcpmark_github_setup"
    " mcpmark_notion_setup mcpmark_playwright_setup mcpmark_playwright_webarena_setup"
    " mcpmark_postgres_setup prepare_rls_business_access prepare_user_permission_audit"
    " prepare_vector_database set_postgres_database"
)
_OPS_BY_PREFIX = {
    "blender.": """
        check_file check_file_content
    """,
    "deepresearch.": """
        hle_llm_as_a_judge
    """,
    "github.": """
        check_branches_exist check_file_content check_file_content_and_issue_count
        check_file_content_with_fewest_issues check_file_exist check_file_not_exist
        check_number_of_issues check_pull_request check_repository
        check_repository_with_fewest_issues file_content_include
    """,
    "google_maps.": """
        are_stops_different at_least_unique_city_of_rest_stops_in_routes
        check_places_and_ratings city_different_from_rest_stops city_name_match
        compare_distance_between_stops compare_distance_with_and_wo_stops
        compare_time_of_middle_point include_one_place_in_rest_stops is_a_validate_stop
        place_in_cities_visited_of_routes place_not_in_cities_visited_of_routes
        places_in_cities_visited places_in_countries places_in_country stop_include_keys
        validate_direction_of_two_places validate_elevation_meters validate_location
        validate_number_of_routes validate_places validate_stop_rating validate_stop_type
    """,
    "google_search.": """
        llm_as_a_judge
    """,
    "mcpmark.filesystem.desktop.verify_": """
        music_report project_management timeline_extraction
    """,
    "mcpmark.filesystem.desktop_template.verify_": """
        budget_computation contact_information file_arrangement
    """,
    "mcpmark.filesystem.file_context.verify_": """
        duplicates_searching file_merging file_splitting pattern_matching uppercase
    """,
    "mcpmark.filesystem.file_property.verify_": """
        size_classification time_classification
    """,
    "mcpmark.filesystem.folder_structure.verify_": """
        structure_analysis structure_mirror
    """,
    "mcpmark.filesystem.legal_document.verify_": """
        dispute_review individual_comments solution_tracing
    """,
    "mcpmark.filesystem.papers.verify_": """
        author_folders find_math_paper organize_legacy_papers
    """,
    "mcpmark.filesystem.student_database.verify_": """
        duplicate_name english_talent gradebased_score
    """,
    "mcpmark.filesystem.threestudio.verify_": """
        code_locating output_analysis requirements_completion
    """,
    "mcpmark.filesystem.votenet.verify_": """
        dataset_comparison debugging requirements_writing
    """,
    "mcpmark.notion.verify_": """
        asset_retirement_migration change_color code_snippets_go
        courses_internships_relation daily_itinerary_overview deployment_process_sop
        employee_onboarding expert_level_lessons faq_column_layout goals_restructure
        hyperfocus_analysis_report layout_adjustment learning_metrics_dashboard
        numbered_list_emojis packing_progress_summary priority_tasks_table
        projects_section_update quarterly_review_dashboard remove_osaka_itinerary
        restaurant_expenses_sync section_organization security_audit_ticket
        skills_development_tracker study_session_tracker swap_tasks
        verification_expired_update weekend_adventure_planner work_history_addition
    """,
    "mcpmark.playwright.verify_": """
        advanced_product_analysis ai_data_analyst birth_of_arvinxu budget_europe_travel
        buyitforlife_research cloudflare_turnstile_challenge customer_segmentation_setup
        extraction_table fitness_promotion_strategy gaming_accessories_analysis
        health_routine_optimization holiday_baking_competition llm_research_summary
        marketing_customer_analysis movie_reviewer_analysis multi_category_budget_analysis
        nba_statistics_analysis ny_expansion_analysis printer_keyboard_search
        products_sales_analysis r1_arxiv routine_tracker_forum running_shoes_purchase
        sales_inventory_analysis search_filtering_operations
    """,
    "mcpmark_github.verify_": """
        advanced_branch_strategy assign_contributor_labels automated_changelog
        claude_collaboration commit_date config_parameter_audit critical_hotfix_workflow
        deployment_status_workflow feature_commit_tracking find_legacy_name
        find_salient_file fix_conflict issue_management_workflow issue_pr_commit_workflow
        issue_tagging_pr_closure label_color_standardization linting_ci_workflow
        multi_branch_commit_aggregation performance_regression_investigation
        pr_automation_workflow qwen3_issue_management rag_commit release_management_workflow
    """,
    "notion.": """
        check_postcode_distance_to_place_in_notion_page compare_block_content_no_order
        compare_page_text search_page
    """,
    "playwright.": """
        check_flight_price check_flight_price_with_notion check_flight_price_with_time
        check_hotel_price check_hotel_price_with_conditions
        check_rwsentosa_price_with_conditions is_dict_equal
        multi_task_check_hotel_price_with_lowest_price_highest_rating
    """,
    "postgres_": """
        baseball_player_analysis_verifier consistency_enforcement_verifier
        customer_analysis_fix_verifier customer_analytics_optimization_verifier
        customer_data_migration_verifier database_security_policies_verifier
        dba_vector_analysis_verifier employee_demographics_verifier
        employee_hierarchy_verifier employee_performance_verifier
        employee_project_tracking_verifier employee_retention_verifier
        executive_dashboard_automation_verifier film_inventory_verifier
        management_structure_analysis_verifier participant_report_optimization_verifier
        rls_business_access_verifier sales_music_charts_verifier security_verifier
        team_roster_management_verifier transactional_inventory_transfer_verifier
    """,
    "weather.": """
        check_place_type_with_multiple_weather check_place_type_with_weather
    """,
    "yfinance.": """
        check_buy_sell_hold_signal check_common_significant_holders
        check_dividend_consistency_task_output check_gross_profit_margin
        check_highest_iv_otm_call_task_output check_holders_largest_pct_change
        check_holders_pct_change check_holders_with_min_pct_held
        check_institutional_holding_values check_largest_positive_increase check_net_income
        check_net_income_difference check_net_income_growth_task_output
        check_net_profit_margin check_operating_income check_pct_values_with_durations
        check_percentage_change check_portfolio_task_output
        check_quant_investment_task_output check_rd_expense check_rd_expense_percentage
        check_total_revenue compare_companies_gross_profit_margin
        compare_companies_net_profit_margin compare_companies_rd_expense_percentage
    """,
}
# The operators that only its own code can judge by; the seven others are ours as well.
DOMAIN_OPS = frozenset(
    prefix + name for prefix, names in _OPS_BY_PREFIX.items() for name in names.split()
)


def hint_to_type(name: str) -> str:
    """Words to add where there is no engine of a name, if a type of MCP-Universe's is like it."""
    near = nearest(name, [*AGENTS, *WORKFLOWS])
    return f"; MCP-Universe has the type {near!r}" if near and near != name else ""


# What runs what.


def engine_for(config: AgentConfig) -> str:
    """The engine that runs a config; a type that is not MCP-Universe's is an engine's name."""
    if not is_theirs(config):
        return config.type
    return PEER_ENGINE if why_not_native(config) else NATIVE_ENGINE


def why_not_native(config: AgentConfig) -> list[str]:
    """Why a config of MCP-Universe's needs its own code; empty where our engines will do."""
    if not is_theirs(config):
        return []
    if config.type not in AGENTS or not AGENTS[config.type].native:
        return [f"type {config.type}"]
    return [*_agent_needs(config.config), *_llm_needs(config)]


def task_needs(task: Task) -> list[str]:
    """Why a task needs MCP-Universe's own code; empty where our engines will do."""
    ops = [str(evaluator.get("op", "")) for evaluator in task.evaluators]
    needs = [name for name in ("prepares", "cleanups") if getattr(task, name)]
    return needs + [f"op {op}" for op in dict.fromkeys(ops) if op in DOMAIN_OPS]


def task_faults(task: Task) -> list[str]:
    """What MCP-Universe passes over with a word in its log, and the task runs unprepared."""
    names = [str(prepare.get("prepare_func", "")) for prepare in task.prepares]
    return [
        f"prepares[{index}]: prepare_func: {name!r:.100} is not in {VERSION}: "
        f"{did_you_mean(name, sorted(PREPARES))}"
        for index, name in enumerate(names)
        if name not in PREPARES
    ]


def is_theirs(config: AgentConfig) -> bool:
    """Whether a config is in MCP-Universe's own form."""
    return config.type in AGENTS or config.type in WORKFLOWS


def _agent_needs(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key not in NATIVE_AGENT_KEYS and value and _SAYS_NOTHING.get(key) != value:
            yield f"{key} is set"
    servers = config.get("servers")
    for server in servers if isinstance(servers, list) else ():
        if isinstance(server, dict):
            extra = sorted(server.keys() - NATIVE_SERVER_KEYS)
            yield from (f"a server's {key} is set" for key in extra if server[key])
            name = server.get("name")
            if name in PACKAGE_SERVERS and name not in listed_names(os.environ.get(VARIABLE)):
                yield f"the server {name} comes with its package"


def _llm_needs(config: AgentConfig) -> Iterator[str]:
    document = _components(config).get(_text(config.config.get("llm")))
    if document is None or _kind(document) != "llm":
        return
    spec = document.data["spec"]
    if not (spec["type"] in LLMS and LLMS[spec["type"]].native):
        yield f"llm type {spec['type']}"
    config_of_llm = spec.get("config", {})
    for key in config_of_llm.keys() - NATIVE_LLM_KEYS:
        yield f"llm {key} is set"
    if spec["type"] in LLMS["openrouter"].names and "/" not in config_of_llm.get("model_name", ""):
        yield "llm model_name is MCP-Universe's own word for a model"


# What nothing runs.


def problems(config: AgentConfig) -> list[Problem]:
    """What is wrong with a config of MCP-Universe's for every engine.

    Ours looks at the agent and its llm; MCP-Universe's builds whatever the file holds.
    """
    if not is_theirs(config):
        return []
    components = _components(config)
    if why_not_native(config):
        found = [each for name in components for each in _faults(name, components, native=False)]
        return found or list(_cycles(components))
    needed = dict.fromkeys((config.name, _text(config.config.get("llm"))))
    names = [name for name in needed if name in components]
    return [each for name in names for each in _faults(name, components, native=True)]


def _faults(name: str, components: Mapping[str, Document], *, native: bool) -> Iterator[Problem]:
    document = components[name]
    spec, kind = document.data["spec"], _kind(document)
    type_ = TYPES[kind].get(spec["type"])
    if type_ is None:
        hint = did_you_mean(spec["type"], sorted(TYPES[kind]))
        message = f"{spec['type']!r:.60} is no {kind} of {VERSION}: {hint}"
        yield _problem(document, ("spec", "type"), message)
        return
    for key, kinds in type_.references.items():
        yield from _reference_faults(document, key, kinds, components)
    known = type_.keys | type_.references.keys()
    if native:
        known |= NATIVE_LLM_KEYS if kind == "llm" else NATIVE_AGENT_KEYS | _LOOP_KEYS
    yield from _unknown_keys(document, known)


def _reference_faults(
    document: Document, key: str, kinds: tuple[str, ...], components: Mapping[str, Document]
) -> Iterator[Problem]:
    config = document.data["spec"].get("config", {})
    if key not in config:
        message = f"missing: name {_article(kinds[0])} of this file"
        yield _problem(document, ("spec", "config", key), message)
        return
    for name in _names(config[key]):
        if name not in components:
            fitting = sorted(n for n, each in components.items() if _kind(each) in kinds)
            hint = did_you_mean(name, fitting)
            message = f"{name!r:.60} is not in this file: {hint}"
            yield _problem(document, ("spec", "config", key), message)
        elif _kind(components[name]) not in kinds:
            message = f"{name!r:.60} is {_article(_kind(components[name]))}: "
            message += f"name {_article(kinds[0])}"
            yield _problem(document, ("spec", "config", key), message)


def _unknown_keys(document: Document, known: frozenset[str]) -> Iterator[Problem]:
    spec = document.data["spec"]
    for key in spec.get("config", {}):
        if key not in known:
            message = f"unknown key for {spec['type']}: {did_you_mean(key, sorted(known))}"
            yield _problem(document, ("spec", "config", key), message)


def _cycles(components: Mapping[str, Document]) -> Iterator[Problem]:
    graph = {name: _referred(document) for name, document in components.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]
        message = f"a cycle, {' -> '.join(cycle)}: let one of them name another"
        yield _problem(components[cycle[0]], ("spec", "config"), message)


def _referred(document: Document) -> list[str]:
    spec = document.data["spec"]
    type_ = TYPES[_kind(document)].get(spec["type"])
    references = type_.references if type_ else {}
    return [name for key in references for name in _names(spec.get("config", {}).get(key))]


def _components(config: AgentConfig) -> dict[str, Document]:
    return {document.data["spec"]["name"]: document for document in config.documents}


def _kind(document: Document) -> str:
    return str(document.data["kind"])


def _names(value: Any) -> list[str]:
    """What a reference names; what is no text names nothing that there is."""
    return [_text(each) for each in (value if isinstance(value, list) else [value])]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' or kind == 'llm' else 'a'} {kind}"


def _problem(document: Document, path: KeyPath, message: str) -> Problem:
    # Here, so that whoever only wants names does not load what reads YAML.
    from agentpipe.config.documents import problem_at

    return problem_at(document, path, message)
