// The monitor's `mce`: a machine check as hardware would log it, and raise it if it is uncorrected. Sources: SDM 3B §15.3 (banks, what
// overwrites what), §15.10; QEMU's documentation of the command.
#include <charconv>

#include "src/control/command.h"
#include "src/vm/machine.h"
#include "src/vm/run_state.h"
#include "src/x86/state.h"

namespace vmm::vm {

namespace {

constexpr u64 status_valid = u64{1} << 63, status_overflow = u64{1} << 62, status_uncorrected = u64{1} << 61;
constexpr u64 in_progress = 4;  // MCG_STATUS.MCIP

struct Injection {
  unsigned bank = 0;
  u64 status = 0, mcg_status = 0, address = 0, misc = 0;
};

enum class Outcome : u8 { logged, raised, disabled, fatal };

// On the vCPU's thread, or while it is parked.
Outcome log_into(x86::State& s, const Injection& m) {
  auto& [control, status, address, misc] = s.mc_bank[m.bank];
  if (m.status & status_uncorrected) {
    if (s.mcg_ctl != ~u64{0} || control != ~u64{0}) return Outcome::disabled;
    if (s.mcg_status & in_progress || !(s.cr4 & x86::cr4_mce)) return Outcome::fatal;
    const u64 lost = status & status_valid ? status_overflow : 0;
    status = m.status | lost, address = m.address, misc = m.misc;
    s.mcg_status = m.mcg_status;
    return Outcome::raised;
  }
  // A corrected error overwrites nothing that is worse.
  if (!(status & status_valid) || !(status & status_uncorrected)) {
    const u64 lost = status & status_valid ? status_overflow : 0;
    status = m.status | lost, address = m.address, misc = m.misc;
  } else {
    status |= status_overflow;
  }
  return Outcome::logged;
}

Result<u64> number(std::string_view word, std::string_view what, u64 most = ~u64{0}) {
  const bool hex = word.starts_with("0x") || word.starts_with("0X");
  const std::string_view digits = hex ? word.substr(2) : word;
  u64 v = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), v, hex ? 16 : 10);
  if (error != std::errc{} || end != digits.data() + digits.size() || digits.empty() || v > most)
    return fail("mce: '{}' takes a number up to {:#x}, not '{}'", what, most, word);
  return v;
}

Result<std::string> inject_mce(control::Context&, std::span<const std::string> words) {
  const bool broadcast = !words.empty() && words[0] == "-b";
  if (broadcast) words = words.subspan(1);
  if (words.size() != 6) return fail("mce takes [-b] cpu bank status mcgstatus addr misc");
  Machine* const machine = current_machine();
  if (!machine) return fail("There is no machine yet");
  const auto& cpus = machine->vcpus();
  const u64 index = TRY(number(words[0], "cpu", ~u32{0}));
  if (index >= cpus.size()) return fail("there is no CPU {}", index);
  Injection m;
  m.bank = static_cast<unsigned>(TRY(number(words[1], "bank", x86::State{}.mc_bank.size() - 1)));
  m.status = TRY(number(words[2], "status"));
  m.mcg_status = TRY(number(words[3], "mcgstatus"));
  m.address = TRY(number(words[4], "addr"));
  m.misc = TRY(number(words[5], "misc"));
  if (!(m.status & status_valid)) return fail("mce: 'status' has no VAL bit (bit 63): {:#x}", m.status);
  // The others of a broadcast hear of it in bank 1, as an error that is theirs to look at only.
  const Injection elsewhere{.bank = 1, .status = status_valid | status_uncorrected, .mcg_status = in_progress | 1};
  std::string out;
  for (const auto& cpu : cpus) {
    const bool here = cpu->index() == index;
    if (!here && !broadcast) continue;
    Outcome outcome = Outcome::logged;
    cpu->run([&] { outcome = log_into(cpu->state(), here ? m : elsewhere); });
    switch (outcome) {
      case Outcome::raised: cpu->post(Request::mce); break;
      case Outcome::disabled: out += format("CPU {}: Uncorrected error reporting disabled\n", cpu->index()); break;
      case Outcome::fatal:
        out += format("CPU {}: Previous MCE still in progress, or CR4.MCE clear: the machine is reset\n", cpu->index());
        machine->run_state().request_reset(Cause::guest_reset);
        break;
      case Outcome::logged: break;
    }
  }
  return out;
}

}  // namespace

static control::Registered registered{control::human<inject_mce>(
    {.human = "mce",
     .human_help =
         "mce [-b] cpu bank status mcgstatus addr misc -- inject a MCE on the given CPU [and broadcast to other CPUs with -b option]"})};

}  // namespace vmm::vm
