"""All rules: BuildKit's names, in the order of its documentation."""

from __future__ import annotations

from machinefile.lint import exposed, names, origins, stages
from machinefile.lint.rule import Rule

RULES = (
    Rule(
        "StageNameCasing",
        "A stage's name should be lower case",
        "write the name in lower case: case makes no difference to it",
        names.stage_name_casing,
    ),
    Rule(
        "FromAsCasing",
        "AS should be written in the same case as its FROM",
        "write both in upper case, or both in lower case",
        names.from_as_casing,
    ),
    Rule(
        "NoEmptyContinuation",
        "No empty line should stand inside an instruction: Docker means to refuse it one day",
        "take the empty line out, or put a # there",
        stages.no_empty_continuation,
    ),
    Rule(
        "ConsistentInstructionCasing",
        "All instructions of a file should be in upper case, or all in lower case",
        "write it as the others are written",
        names.consistent_instruction_casing,
    ),
    Rule(
        "DuplicateStageName",
        "Every stage should have a name of its own",
        "rename one of the stages",
        names.duplicate_stage_name,
    ),
    Rule(
        "ReservedStageName",
        "A stage should not be called scratch or context",
        "choose another name",
        names.reserved_stage_name,
    ),
    Rule(
        "JSONArgsRecommended",
        "CMD and ENTRYPOINT should be a JSON array, so that signals reach the command",
        'write it as ["program", "argument"], or give a SHELL if a shell is meant',
        stages.json_args_recommended,
    ),
    Rule(
        "MaintainerDeprecated",
        "MAINTAINER is deprecated",
        "write LABEL org.opencontainers.image.authors=... in its place",
        stages.maintainer_deprecated,
    ),
    Rule(
        "UndefinedArgInFrom",
        "A variable in FROM should be declared above the first FROM",
        "declare it with ARG above the first FROM",
        origins.undefined_arg_in_from,
    ),
    Rule(
        "WorkdirRelativePath",
        "The first WORKDIR should be absolute: a relative one changes its meaning with the base image",
        "begin the path with /",
        stages.workdir_relative_path,
    ),
    Rule(
        "UndefinedVar",
        "A variable should be set before it is used",
        "declare it with ARG or ENV above",
        stages.undefined_var,
    ),
    Rule(
        "MultipleInstructionsDisallowed",
        "A stage should have one CMD, one ENTRYPOINT and one HEALTHCHECK at most: the last one counts",
        "take this one out",
        stages.multiple_instructions_disallowed,
    ),
    Rule(
        "LegacyKeyValueFormat",
        "ENV and LABEL should be written with =",
        "write NAME=VALUE, with quotes around a value that has blanks",
        stages.legacy_key_value_format,
    ),
    Rule(
        "InvalidBaseImagePlatform",
        "A base image should run on the platform that is built for",
        "choose an image that has this platform, or say --platform in the FROM",
        origins.invalid_base_image_platform,
    ),
    Rule(
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM says what holds anyway",
        "leave the flag out",
        origins.redundant_target_platform,
    ),
    Rule(
        "SecretsUsedInArgOrEnv",
        "Secrets should not be in ARG or ENV: they stay in the image or its history",
        "give it to the step that needs it with RUN --mount=type=secret",
        stages.secrets_used_in_arg_or_env,
    ),
    Rule(
        "InvalidDefaultArgInFrom",
        "FROM should name an image with the defaults of its ARGs",
        "give the ARG a default that makes a whole name",
        origins.invalid_default_arg_in_from,
    ),
    Rule(
        "FromPlatformFlagConstDisallowed",
        "FROM --platform should not be a constant",
        "use $BUILDPLATFORM or leave the flag out; or name the stage for its platform, such as tools-arm64",
        origins.from_platform_flag_const_disallowed,
    ),
    Rule(
        "CopyIgnoredFile",
        "COPY and ADD should not take what .dockerignore leaves out",
        "add an exception to .dockerignore, such as !NAME",
        stages.copy_ignored_file,
        experimental=True,
    ),
    Rule(
        "InvalidDefinitionDescription",
        "The comment right above an ARG or a named FROM should begin with its name",
        "write # NAME and what it is for, or put an empty line below the comment",
        names.invalid_definition_description,
        experimental=True,
    ),
    Rule(
        "ExposeProtoCasing",
        "The protocol in EXPOSE should be lower case",
        "write tcp, udp or sctp",
        exposed.expose_proto_casing,
    ),
    Rule(
        "ExposeInvalidFormat",
        "EXPOSE should name ports of the container, no address and no port of the host",
        "write PORT or PORT/PROTOCOL",
        exposed.expose_invalid_format,
    ),
)

BY_NAME = {rule.name: rule for rule in RULES}
