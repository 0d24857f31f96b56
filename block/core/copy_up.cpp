// Copying from below into an image: what copy-on-read and the stream job do.
#include "block/core/node.h"

namespace vmm::block {

Task<bool> copy_up(BlockNode& image, u64 offset, u64 length, u8* bytes) {
  // Nothing may write there from the reading to the writing.
  Request copy{image, offset, length};
  copy.serialise(offset, length);
  if (copy.must_wait()) co_await copy.wait();
  Buffer bounce{bytes ? 1 : length};
  IoVector whole{bytes ? bytes : bounce.data(), length};
  co_await image.read(offset, whole);
  bool copied = false;
  for (u64 at = 0; at < length;) {
    const Extent now = co_await image.map(offset + at, length - at);
    if (now.kind == Extent::Kind::backing) {
      const IoVector part = whole.part(at, now.length);
      Result<> done = fail_os(ENOTSUP);
      if (part.is_zero()) done = co_await attempt(image.zero(offset + at, now.length, {.unchanged = true}));
      if (!done) co_await image.write(offset + at, part, {.unchanged = true});
      copied = true;
    }
    at += now.length;
  }
  co_return copied;
}

}  // namespace vmm::block
