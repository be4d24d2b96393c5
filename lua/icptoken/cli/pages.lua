-- The manual pages, in man(7), from the descriptions of the commands.

local describe = require "icptoken.cli.describe"
local options = require "icptoken.cli.options"
local version = require "icptoken.cli.version"

local pages = {}

-- Text with roff's special characters escaped: backslashes, hyphens, and a control character at the start of a line.
local function escape(text)
  return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("^([.'])", "\\&%1"))
end

local function head(name, summary)
  return (".TH %s 1 \"\" \"icptoken %s\" \"User Commands\"\n.SH NAME\n%s \\- %s\n"):format(name:upper(), version,
    escape(name), escape(summary))
end

local function section(title, ...)
  return ".SH " .. title .. "\n" .. table.concat({ ... }, "\n.PP\n") .. "\n"
end

local function render_rows(rows)
  local parts = {}
  for _, row in ipairs(rows) do
    parts[#parts + 1] = (".TP\n.B %s\n%s\n"):format(escape(row[1]), escape(row[2] ~= "" and row[2] or "."))
  end
  return table.concat(parts)
end

local function render_examples(examples)
  local parts = {}
  for _, example in ipairs(examples or {}) do
    local comment = example[2] and "  # " .. example[2] or ""
    parts[#parts + 1] = ".PP\n.RS 4\n.EX\n" .. escape(example[1] .. comment) .. "\n.EE\n.RE\n"
  end
  return table.concat(parts)
end

local function render_command(name, summary, parser)
  local arguments, choices = describe.list_arguments(parser), describe.list_options(parser)
  return (".SS icptoken %s %s\n%s.\n"):format(escape(name), escape(describe.synopsis(parser)),
    escape(summary:sub(1, 1):upper() .. summary:sub(2))) .. render_rows(arguments) .. render_rows(choices)
    .. render_examples(options.load_command(name).examples)
end

local FILES = {
  { "$ICPTOKEN_CONFIG, $XDG_CONFIG_HOME/icptoken/config.json, /etc/icptoken/config.json",
    "The configuration: the first that there is. Its clusters have the options of icptoken.new; an unknown field is an "
      .. "error." },
  { "$XDG_STATE_HOME/icptoken/",
    "Sessions: ID token, refresh token and expiry of a login, and no password. By default ~/.local/state/icptoken/." },
}

local VARIABLES = {
  { "ICPTOKEN_ID_TOKEN_FILE", "A file with an ID token, used unless --id-token-file or - is given." },
  { "ID_TOKEN", "An ID token, used unless one of these is given." },
  { "ICPTOKEN_CLUSTER, ICPTOKEN_HOST, ICPTOKEN_PORT, ICPTOKEN_CACERT, ...",
    "The options of a cluster, by name. The command line takes precedence over them, and they over the "
    .. "configuration." },
  { "ICPTOKEN_USERNAME", "The user name of icptoken login." },
  { "DOCKER_CONFIG, REGISTRY_AUTH_FILE", "Where docker and podman have their files." },
  { "NO_COLOR", "No colours." },
}
local HELPER_VARIABLES = {
  { "ICPTOKEN_HOST, ICPTOKEN_PORT, ICPTOKEN_CACERT, ...",
    "The options of the registry's cluster, by name. They take precedence over the configuration." },
  { "ICPTOKEN_LOG", "If it is not empty, the program prints on standard error what it does, as with -v." },
}

local STATUSES = {
  { "0", "It worked." }, { "1", "It was refused, or failed." },
  { "2", "The command line or the configuration is wrong." },
  { "75", "It failed, and may work later." },
}

--- The page of icptoken. commands: a list of { name, summary }; parser and parsers are those of options.make_parser.
function pages.render_program(commands, parser, parsers)
  local parts = { head("icptoken", "registry tokens from IBM Cloud Private"),
    section("SYNOPSIS", ".B icptoken\n.I COMMAND\n[OPTION ...]"),
    section("DESCRIPTION", escape("icptoken gets registry tokens from an IBM Cloud Private cluster, and logs in "
      .. "docker, podman and related tools without keeping a password on disk."),
      escape("Secrets are never given as arguments, where other users could see them. The ID token comes from "
        .. "--id-token-file, from standard input (-), from $ICPTOKEN_ID_TOKEN_FILE, from $ID_TOKEN, from id_token_file "
        .. "in the configuration, from the session of icptoken login, or, at a terminal, from a login that asks for "
        .. "the password.")),
    ".SH COMMANDS\n" }
  for _, row in ipairs(commands) do parts[#parts + 1] = render_command(row[1], row[2], parsers[row[1]]) end
  parts[#parts + 1] = ".SH OPTIONS OF ALL COMMANDS\n" .. render_rows(describe.list_options(parser))
  parts[#parts + 1] = ".SH EXIT STATUS\n" .. render_rows(STATUSES)
  parts[#parts + 1] = ".SH ENVIRONMENT\n" .. render_rows(VARIABLES)
  parts[#parts + 1] = ".SH FILES\n" .. render_rows(FILES)
  parts[#parts + 1] = ".SH SEE ALSO\n.BR docker\\-credential\\-icptoken (1)\n"
  return table.concat(parts)
end

--- The page of docker-credential-icptoken.
function pages.render_helper()
  return table.concat { head("docker-credential-icptoken", "credential helper for registries of IBM Cloud Private"),
    section("SYNOPSIS", ".B docker\\-credential\\-icptoken\n.RB [ \\-v ]\n.RB get | store | erase | list | version"),
    section("DESCRIPTION", escape("Clients of registries run this program, by the protocol of docker's credential "
      .. "helpers. icptoken configure has docker and podman do so."),
      escape("For a registry behind icptoken's gateway (gateway_user in the configuration), store logs in at the "
        .. "cluster with user name and password, keeps the session and forgets the password; get returns the gateway's "
        .. "user and the session's ID token; erase ends the session. If the registry has a credential_store, the "
        .. "password is kept there, and get logs in again with it when the session has expired."),
      escape("For any other registry, the calls are passed on to the helper that credential_store in the configuration "
        .. "names. Without one, store is refused.")),
    section("EXIT STATUS", escape("0, or 1 with a message on standard output, as the protocol requires. If there is "
      .. "no credential, that is \"credentials not found in native keychain\".")),
    ".SH ENVIRONMENT\n" .. render_rows(HELPER_VARIABLES), ".SH FILES\n" .. render_rows(FILES),
    ".SH SEE ALSO\n.BR icptoken (1)\n" }
end

return pages
