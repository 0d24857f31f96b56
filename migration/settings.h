// What moves are told beforehand: capabilities, which are on or off, and parameters. Machine lock.
#pragma once

#include <array>
#include <string>

#include "src/base/types.h"
#include "src/value/field.h"

namespace vmm::migration {

enum class Capability : u8 {
  auto_converge,
  events,
  late_block_activate,
  mapped_ram,
  multifd,
  pause_before_switchover,
  return_path,
};
inline constexpr usize capability_count = 7;
bool capable(Capability c);

enum class Packing : u8 { none, zstd };

struct Parameters {
  u64 announce_initial = 50, announce_max = 550, announce_rounds = 5, announce_step = 100;  // announce-self on the target; milliseconds
  u64 max_bandwidth = 128 * MiB;                                                            // bytes a second; 0: no limit
  u64 downtime_limit = 300;                                                                 // milliseconds
  u64 multifd_channels = 2;
  Packing multifd_compression = Packing::none;
  u64 multifd_zstd_level = 1;
  u64 cpu_throttle_initial = 20, cpu_throttle_increment = 10, max_cpu_throttle = 99;  // percent, of auto-converge
};
extern Parameters parameters;

}  // namespace vmm::migration

namespace vmm {
template <>
inline constexpr std::array enum_names<migration::Capability> = {
    EnumNameOf<migration::Capability>{migration::Capability::auto_converge, "auto-converge"},
    EnumNameOf<migration::Capability>{migration::Capability::events, "events"},
    EnumNameOf<migration::Capability>{migration::Capability::late_block_activate, "late-block-activate"},
    EnumNameOf<migration::Capability>{migration::Capability::mapped_ram, "mapped-ram"},
    EnumNameOf<migration::Capability>{migration::Capability::multifd, "multifd"},
    EnumNameOf<migration::Capability>{migration::Capability::pause_before_switchover, "pause-before-switchover"},
    EnumNameOf<migration::Capability>{migration::Capability::return_path, "return-path"}};
template <>
inline constexpr std::array enum_names<migration::Packing> = {EnumNameOf<migration::Packing>{migration::Packing::none, "none"},
                                                              EnumNameOf<migration::Packing>{migration::Packing::zstd, "zstd"}};
}  // namespace vmm
