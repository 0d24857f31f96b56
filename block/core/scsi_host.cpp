// See scsi_host.h. Sources: <scsi/sg.h>; Linux documentation, "SCSI Generic (sg) driver".
#include "block/core/scsi_host.h"

#include <scsi/sg.h>

#include <algorithm>

namespace vmm::block {

Result<ScsiHost*> scsi_host(BlockNode& node) {
  BlockNode* at = &node;
  for (;;) {
    if (auto* host = dynamic_cast<ScsiHost*>(at)) return host;
    BlockNode* below = at->filtered();
    if (!below && at->driver().name == "raw") {
      if (at->given().find("offset") || at->given().find("size"))
        return fail("'{}' shows a part of the device only, and commands would go to all of it", at->node_name());
      // A guest that writes another format's header by a command of its own would choose what the next start opens.
      if (at->probed_raw() && at->length_bytes()) return fail("the format of '{}' was guessed; specify 'raw' explicitly", at->filename());
      if (const Edge* file = at->child("file")) below = &file->node();
    }
    if (!below) return fail("'{}' ({}) is no device of the host", at->node_name(), at->driver().name);
    at = below;
  }
}

Result<> find_scsi_device(ScsiHost& host) {
  int version = 0;
  if (host.scsi_ioctl(SG_GET_VERSION_NUM, &version)) return fail_os(errno, "it does not take SCSI commands");
  if (version < 30000) return fail("the host's SCSI generic interface is of version {}, and SG_IO came with 30000", version);
  return {};
}

Result<> send_scsi(ScsiHost& host, ScsiPass& pass) {
  pass.answered = false;
  pass.status = 0, pass.host_status = 0, pass.driver_status = 0, pass.sense_bytes = 0, pass.transferred = 0;
  const auto pieces = pass.data.pieces();
  if (pieces.size() > scsi_most_pieces) return fail_os(EINVAL, format("a command with {} pieces of data", pieces.size()));
  const u64 bytes = pass.data.size();
  if (bytes > ~u32{0}) return fail_os(EINVAL, format("a command with {} bytes of data", bytes));
  std::vector<sg_iovec_t> list(pieces.size() > 1 ? pieces.size() : 0);
  for (usize i = 0; i < list.size(); i++) list[i] = {.iov_base = pieces[i].iov_base, .iov_len = pieces[i].iov_len};
  sg_io_hdr h{};
  h.interface_id = 'S';
  h.dxfer_direction = !bytes ? SG_DXFER_NONE : pass.to_device ? SG_DXFER_TO_DEV : SG_DXFER_FROM_DEV;
  h.cmd_len = pass.cdb_bytes, h.cmdp = pass.cdb.data();
  h.mx_sb_len = static_cast<u8>(pass.sense.size()), h.sbp = pass.sense.data();
  h.dxfer_len = static_cast<u32>(bytes);
  h.iovec_count = static_cast<u16>(list.size());
  h.dxferp = !bytes ? nullptr : list.empty() ? pieces[0].iov_base : list.data();
  h.timeout = pass.timeout_ms;
  int failed;
  do failed = host.scsi_ioctl(SG_IO, &h);
  while (failed && errno == EINTR);
  if (failed) return fail_os(errno, "the host did not take a SCSI command");
  pass.answered = true;
  pass.status = h.status & 0x3e;
  pass.host_status = h.host_status;
  // Beside the sense data's own mark, which says that there are some (the kernel's DRIVER_SENSE).
  pass.driver_status = (h.driver_status & 0xf) == 8 ? 0 : h.driver_status & 0xf;
  pass.sense_bytes = std::min<u8>(h.sb_len_wr, static_cast<u8>(pass.sense.size()));
  pass.transferred = bytes - static_cast<u64>(std::clamp<i64>(h.resid, 0, static_cast<i64>(bytes)));
  return {};
}

}  // namespace vmm::block
