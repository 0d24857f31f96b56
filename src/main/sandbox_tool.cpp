// `vmm sandbox explain [VALUE]`: what the cage of a machine with that -sandbox allows on this host.
#include <cstdio>

#include "src/base/log.h"
#include "src/main/options.h"
#include "src/tools/tool.h"

namespace vmm::cli {
namespace {

constexpr std::string_view usage =
    "usage: vmm sandbox explain [VALUE]\n"
    "Shows what a machine with '-sandbox VALUE' (on, strict, on,spawn=deny …; without a word: on) may do on this host.\n";

int run(std::span<const char* const> words) {
  const std::string_view verb = words.empty() ? "" : words[0];
  if (verb == "--help" || verb == "-h") return std::fwrite(usage.data(), 1, usage.size(), stdout), 0;
  if (verb != "explain" || words.size() > 2) {
    report_error(format("no such command\n{}", usage));
    return 1;
  }
  std::vector<const char*> line = {"vmm"};
  if (words.size() == 2) line.insert(line.end(), {"-sandbox", words[1]});
  const auto options = parse_command_line(line);
  if (!options) return report_error(options.error()), 1;
  std::string text;
  if (options->sandbox.enable == "off") {
    text = "No sandbox: everything that this user may do.\n";
  } else {
    const auto cage = cage_options(options->sandbox);
    if (!cage) return report_error(cage.error()), 1;
    text = cage::explain(*cage);
    text += "Images: a raw or unstated backing file, and every data file, lies below the image's folder";
    for (const std::string& folder : options->sandbox_files) text += format(" or {}", folder);
    text += ", or is named by the user\nMonitors' unix sockets: for this user and root only\n";
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

const tools::RegisteredTool registered{{.name = "sandbox", .program = "vmm-sandbox", .doc = "what a machine's sandbox allows", .run = run}};

}  // namespace
}  // namespace vmm::cli
