// -drive: the older way to describe a disk in one line, host file and device together. Source: contract.md §1, observed names and ids.
#pragma once

#include "block/core/backend.h"

namespace vmm::block {

// What is left for the board once the back end is made.
struct Drive {
  enum class Interface : u8 { automatic, none, ide, scsi, floppy, pflash, virtio } interface = Interface::automatic;
  BackendRef backend;
  u32 bus = 0, unit = 0, index = 0;
  bool cdrom = false;
  std::string serial;
};

// Makes the drive's nodes and back end from the option's keys (a tree). `board_interface` stands for if= absent; `taken` are the drives
// made before, for the numbering. `snapshot`: -snapshot was given.
struct DriveContext {
  Drive::Interface board_interface = Drive::Interface::ide;
  u32 ide_units = 2;  // on one bus: 1 with Serial ATA
  bool snapshot = false;
};
Task<Drive> make_drive(EventLoop& loop, Value keys, DriveContext context);
// Drives made so far, in order; the board looks here for its own.
const std::vector<Drive>& all_drives();
void forget_drive(std::string_view id);
const Drive* find_drive(Drive::Interface interface, u32 bus, u32 unit);
std::string_view interface_name(Drive::Interface interface);
// Options that every node has, whatever its driver: query-qmp-schema shows them.
std::span<const Field> common_node_options();

// Closes every medium: the end of the process. Main loop, nested turns.
void close_all(EventLoop& main_loop);

}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array enum_names<block::Drive::Interface> = {
    EnumNameOf<block::Drive::Interface>{block::Drive::Interface::none, "none"},
    EnumNameOf<block::Drive::Interface>{block::Drive::Interface::ide, "ide"},
    EnumNameOf<block::Drive::Interface>{block::Drive::Interface::scsi, "scsi"},
    EnumNameOf<block::Drive::Interface>{block::Drive::Interface::floppy, "floppy"},
    EnumNameOf<block::Drive::Interface>{block::Drive::Interface::pflash, "pflash"},
    EnumNameOf<block::Drive::Interface>{block::Drive::Interface::virtio, "virtio"}};
}  // namespace vmm
