// vmm: reads the command line, builds the machine, runs the main loop until the machine ends.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "block/format/backing.h"
#include "src/base/log.h"
#include "src/base/thread_name.h"
#include "src/main/assemble.h"
#include "src/main/options.h"
#include "src/main/process.h"
#include "src/tools/tool.h"
#include "src/x86/disassemble.h"

namespace vmm::cli {
namespace {

// What a signal asks to end; null before the machine exists and after its end.
std::atomic<vm::RunState*> ending{nullptr};

Result<int> run(const Options& options, Signals& signals, PidFile& pid_file) {
  const auto at = [](std::string_view option, const std::string& text, Result<> result) -> Result<> {
    if (result) return {};
    return std::unexpected(place_error({.option = std::string{option}, .text = text, .value = {}}, std::move(result).error()));
  };
  if (options.messages.guest_name && !options.name.guest.empty()) set_program_name(format("{} {}", options.name.guest, program_name()));
  set_thread_names(options.name.debug_threads);
  if (!options.log_file.empty()) TRY(at("-D", options.log_file, log_set_file(options.log_file)));
  if (!options.log_items.empty()) TRY(log_set_items(options.log_items));
  if (log_enabled(LogItem::in_asm) || log_enabled(LogItem::out_asm)) x86::load_disassembler();
  Daemon daemon;
  if (options.daemonize) TRY(daemon.begin());
  if (!options.pid_file.empty()) TRY(at("-pidfile", options.pid_file, pid_file.write(options.pid_file)));
  if (options.run_with_given) TRY(at("-run-with", options.run_with_given->text, run_with_early(options.run_with)));
  const bool late = options.run_with.user || options.run_with.chroot;
  const bool caged = options.sandbox.enable != "off";
  if (caged) {
    block::bound_image_words(options.sandbox_files);
    cage::Options cage = TRY(cage_options(options.sandbox));
    cage.policy.becomes = late;
    if (late && cage.policy.strict)
      TRY(at("-run-with", options.run_with_given->text, fail("no change of user or root is possible under '-sandbox strict'")));
    cage.files = options.sandbox_files;
    if (late) cage.become = [&options] { return static_cast<bool>(run_with_late(options.run_with)); };
    TRY(at("-sandbox", options.sandbox_given ? options.sandbox_given->text : "", cage::begin(cage)));
  }
  const auto first = [&pid_file](int signal, int pid) {
    if (pid > 0)
      report_error(format("terminating on signal {} from pid {}", signal, process_name(pid)));
    else
      report_error(format("terminating on signal {}", signal));
    if (vm::RunState* state = ending.load()) return state->request_shutdown(vm::Cause::host_signal);
    // Still starting, perhaps waiting for a client: there is nothing to end in order.
    restore_terminals();
    pid_file.remove();
    ::_exit(0);
  };
  signals.start(first, [&pid_file] { pid_file.remove(); });

  Assembly assembly{options};
  {
    MachineLocked lock;
    TRY(assembly.build());
    if (late) {
      TRY(at("-run-with", options.run_with_given->text, run_with_late(options.run_with)));
      if (caged) TRY(cage::become());
    }
    TRY(daemon.report_ready());
    if (caged && options.daemonize) TRY(cage::follow("/"));
    ending = &assembly.machine().run_state();
    TRY(assembly.start());
    if (caged) TRY(cage::close());
  }
  assembly.loop().run();
  ending = nullptr;
  return assembly.machine().run_state().exit_code();
}

}  // namespace
}  // namespace vmm::cli

int main(int argc, char** argv) {
  using namespace vmm;
  const std::span<const char* const> arguments{argv, static_cast<usize>(argc)};
  if (argc > 0) {
    const std::string_view path = argv[0];
    set_program_name(std::string{path.substr(path.rfind('/') + 1)});
  }
  std::span<const char* const> words;
  if (const tools::Tool* tool = tools::find_tool(arguments, words)) {
    set_program_name(std::string{tool->program});
    return tool->run(words);
  }
  auto options = cli::parse_command_line(arguments);
  if (!options) return report_error(options.error()), EXIT_FAILURE;
  if (options->help != cli::Options::Help::none) {
    const auto text = cli::help_text(*options);
    if (!text) return report_error(text.error()), EXIT_FAILURE;
    std::fwrite(text->data(), 1, text->size(), stdout);
    return options->help == cli::Options::Help::log ? 1 : 0;
  }
  if (!options->write_config.empty())
    if (auto done = cli::write_config(*options, options->write_config); !done) return report_error(done.error()), EXIT_FAILURE;
  cli::PidFile pid_file;  // outlives the thread that takes signals
  cli::Signals signals;   // blocks them before any thread is made
  const auto status = cli::run(*options, signals, pid_file);
  if (!status) report_error(status.error());
  restore_terminals();
  std::fflush(nullptr);
  return status ? *status : EXIT_FAILURE;
}
