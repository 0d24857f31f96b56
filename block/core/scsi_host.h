// SCSI commands that go to the host's device as they are (scsi-block, scsi-generic). Source: <scsi/sg.h>, version 3 of the kernel's SCSI
// generic interface (SG_IO).
#pragma once

#include "block/core/node.h"

namespace vmm::block {

// The seam to the host: a node whose device may take SCSI commands. Its requests are counted by who sends them, as reads and writes are.
class ScsiHost {
 public:
  virtual ~ScsiHost() = default;
  virtual int scsi_ioctl(unsigned long request, void* argument) = 0;  // as ioctl(2): may wait, is called on workers
  virtual u64 scsi_most_bytes() = 0;                                  // that one command moves; 0: not known
};

// Where the commands of this node's users can go: the node itself, or what is below filters and a raw format that shows all of its file.
Result<ScsiHost*> scsi_host(BlockNode& node);
// Does a SCSI device answer there? May wait.
Result<> find_scsi_device(ScsiHost& host);

struct ScsiPass {
  std::array<u8, 32> cdb{};
  u8 cdb_bytes = 0;
  bool to_device = false;  // where `data` goes; empty: nothing is moved
  IoVector data;
  u32 timeout_ms = 30'000;
  // The answer, with bounds of ours whatever the device says.
  bool answered = false;
  u8 status = 0;         // SAM-5 §5.3
  u16 host_status = 0;   // DID_…: the host could not bring it to the device, or no answer came
  u8 driver_status = 0;  // 0, or why the driver failed
  std::array<u8, 252> sense{};
  u8 sense_bytes = 0;
  u64 transferred = 0;
};
constexpr usize scsi_most_pieces = 1024;  // of a command's data: the kernel's limit
// One command. An error if the host did not take it at all. May wait, as long as the device does.
Result<> send_scsi(ScsiHost& host, ScsiPass& pass);

}  // namespace vmm::block
