// The command line as one plain struct. Parsing checks form only; what needs a machine (devices, back ends, firmware) keeps the text
// that the user wrote, so that its errors can point at it. Source: contract.md §1.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/main/sandbox.h"
#include "src/ui/vnc/server.h"
#include "src/value/field.h"
#include "src/value/key_list.h"

namespace vmm::cli {

// One option as the user wrote it.
struct Given {
  std::string option;  // "-device"; from a configuration file "-readconfig FILE"
  std::string text;    // its value
  Value value;         // read from the text; null for plain words
};

// Key tables of the options that are read here; their Fields also make `query-command-line-options`.
struct SmpKeys {
  std::optional<u32> cpus, sockets, dies, clusters, cores, threads, maxcpus;
};
struct MemoryKeys {
  std::optional<std::string> size;
  std::optional<u32> slots;
  std::optional<Bytes64> maxmem;
};
struct NameKeys {
  std::string guest, process;
  bool debug_threads = false;
};
struct RtcKeys {
  std::string base = "utc", clock = "host", driftfix = "none";
};
struct BootKeys {
  std::string order = "cad", once, splash;
  std::optional<i32> splash_time, reboot_timeout;
  bool menu = false, strict = false;
};
struct OvercommitKeys {
  bool mem_lock = false, cpu_pm = false;
};
struct TraceKeys {
  std::optional<std::string> enable, events, file;
};
struct MessageKeys {
  bool timestamp = false, guest_name = false;
};
struct ActionKeys {
  std::optional<std::string> reboot, shutdown, panic, watchdog;
};
struct FwCfgKeys {
  std::string name;
  std::optional<std::string> file, string, gen_id;
};
struct AddFdKeys {
  i32 fd = -1;
  i64 set = 0;
  std::optional<std::string> opaque;
};
struct GlobalKeys {
  std::string driver, property, value;
};
struct AudioKeys {
  std::string driver, id;
  std::optional<u32> timer_period;
};
struct MonitorKeys {
  std::string chardev, mode = "readline";
  std::optional<std::string> id;
  bool pretty = false;
};

struct MonitorOption {
  Given given;
  enum class Kind { legacy_human, legacy_control, legacy_control_pretty, mon } kind = Kind::legacy_human;
  MonitorKeys keys;  // of -mon
};

struct Options {
  std::string program;
  Value machine = Value::object();  // all -machine options merged, as a tree
  std::optional<Given> machine_given;
  std::vector<Given> accelerators;
  bool enable_kvm = false;
  std::optional<Given> cpu;
  SmpKeys smp;
  std::optional<Given> smp_given;
  u64 ram_bytes = 0;  // 0: the machine's default
  u64 max_ram_bytes = 0;
  u32 ram_slots = 0;
  std::optional<Given> memory_given;
  std::string mem_path;
  bool mem_prealloc = false;

  std::optional<Given> kernel, initrd, append, bios;
  std::vector<std::string> firmware_folders;
  std::vector<Given> serials, parallels, debug_consoles, chardevs, devices, objects, audiodevs;
  std::vector<Given> usb_devices;        // -usbdevice
  std::vector<Given> drives, blockdevs;  // -drive, -hda and the like, disk images; -blockdev
  bool snapshot = false;
  std::vector<Given> netdevs, nics;  // -netdev; -nic and -net in their order
  std::vector<MonitorOption> monitors;
  std::optional<Given> qtest;  // -qtest
  std::string qtest_log;
  bool nographic = false;
  std::optional<Given> vga, display;
  std::string keyboard_layout;
  std::vector<std::pair<Given, ui::vnc::Options>> vncs;
  std::optional<Given> sandbox_given;
  SandboxKeys sandbox;
  std::vector<std::string> sandbox_files;  // of every -sandbox
  std::optional<Given> run_with_given;
  RunWithKeys run_with;
  std::vector<std::pair<Given, GlobalKeys>> globals;
  bool no_defaults = false, no_user_config = false;

  NameKeys name;
  std::string uuid;
  RtcKeys rtc;
  BootKeys boot;
  std::vector<std::pair<Given, FwCfgKeys>> fw_cfg;
  std::vector<Given> smbios;
  OvercommitKeys overcommit;
  Value compat = Value::object();
  bool stopped = false;      // -S
  std::optional<Given> gdb;  // -gdb, -s
  std::string loadvm;        // -loadvm: the snapshot to start from
  std::string incoming;      // -incoming: where the machine comes from; empty: it starts afresh
  ActionKeys action;

  std::string log_file, log_items, log_filter;
  std::string pid_file;
  bool daemonize = false;
  MessageKeys messages;
  int escape_key = 1;
  std::string write_config;

  // A help text that was asked for: printed on stdout, then exit 0.
  enum class Help {
    none,
    usage,
    version,
    machine,
    machine_properties,
    cpu,
    accel,
    accel_properties,
    device,
    device_properties,
    object,
    object_properties,
    chardev,
    display,
    audiodev,
    vga,
    log,
    trace,
    netdev
  } help = Help::none;
  std::string help_subject;
};

struct OptionRow {
  std::string_view name;      // without the dash
  std::string_view argument;  // "[type=]name[,…]" as shown; empty: the option takes none
  std::string_view help;      // lines of the usage text
  Result<> (*take)(Options&, Given&) = nullptr;
  std::span<const Field> keys{};  // what query-command-line-options shows
  std::string_view section{};     // heading before this row
};
std::span<const OptionRow> option_rows();

// Reads the whole command line. Errors carry the option as written, the nearest names and a caret.
Result<Options> parse_command_line(std::span<const char* const> arguments);

// "-option value: message", with the caret under the word that the message quotes.
Error place_error(const Given& given, Error error);

// Applies `option` (its name without dash) to `options` as if it stood on the command line.
Result<> take_option(Options& options, std::string_view name, std::string text, std::string as_written);
// -readconfig and -writeconfig.
Result<> read_config(Options& options, const std::string& path);
Result<> parse_config(Options& options, const std::string& path, std::string_view content);
Result<> write_config(const Options& options, const std::string& path);
// -set group.id.key=value
Result<> set_option(Options& options, std::string_view text);

std::string usage_text(const Options& options);
std::string version_text();
// The help text that `options.help` asks for; an error if its subject does not exist.
Result<std::string> help_text(const Options& options);

}  // namespace vmm::cli
