/* A VNC viewer without eyes, on Debian's libvncclient: vnc_client HOST PORT ENCODINGS PASSWORD. Lines on stdin: "type TEXT", "key KEYSYM down|up",
   "mouse X Y BUTTONS", "save FILE" (a fresh whole picture, as PPM). Answers each with a line. */
#include <rfb/rfbclient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>

static const char* password;
static int finished;

static char* get_password(rfbClient* client) { return strdup(password); }
static void update_finished(rfbClient* client) { finished = 1; }

static void save(rfbClient* c, const char* path) {
  finished = 0;
  SendFramebufferUpdateRequest(c, 0, 0, c->width, c->height, FALSE);
  while (!finished) {
    if (WaitForMessage(c, 20000000) <= 0 || !HandleRFBServerMessage(c)) {
      printf("lost\n");
      exit(1);
    }
  }
  FILE* f = fopen(path, "wb");
  fprintf(f, "P6\n%d %d\n255\n", c->width, c->height);
  for (int i = 0; i < c->width * c->height; i++) fwrite(c->frameBuffer + i * 4, 1, 3, f);
  fclose(f);
}

int main(int argc, char** argv) {
  rfbClient* c = rfbGetClient(8, 3, 4);
  c->serverHost = strdup(argv[1]);
  c->serverPort = atoi(argv[2]);
  c->appData.encodingsString = argv[3];
  c->appData.compressLevel = 6;
  c->canHandleNewFBSize = TRUE;
  password = argv[4];
  c->GetPassword = get_password;
  c->FinishedFrameBufferUpdate = update_finished;
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (!rfbInitClient(c, NULL, NULL)) {
    printf("refused\n");
    return 2;
  }
  printf("connected %d x %d %s\n", c->width, c->height, c->desktopName);
  char line[1024];
  for (;;) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(0, &set);
    FD_SET(c->sock, &set);
    if (c->buffered == 0 && select(c->sock + 1, &set, NULL, NULL, NULL) < 0) return 1;
    if ((c->buffered || FD_ISSET(c->sock, &set)) && !HandleRFBServerMessage(c)) {
      printf("lost\n");
      return 1;
    }
    if (!FD_ISSET(0, &set)) continue;
    if (!fgets(line, sizeof line, stdin)) return 0;
    line[strcspn(line, "\n")] = 0;
    if (!strncmp(line, "type ", 5)) {
      for (char* p = line + 5; *p; p++) SendKeyEvent(c, (unsigned char)*p, TRUE), SendKeyEvent(c, (unsigned char)*p, FALSE);
    } else if (!strncmp(line, "key ", 4)) {
      char how[8] = "";
      unsigned sym = 0;
      sscanf(line + 4, "%x %7s", &sym, how);
      SendKeyEvent(c, sym, !strcmp(how, "down"));
    } else if (!strncmp(line, "mouse ", 6)) {
      int x = 0, y = 0, b = 0;
      sscanf(line + 6, "%d %d %d", &x, &y, &b);
      SendPointerEvent(c, x, y, b);
    } else if (!strncmp(line, "save ", 5)) {
      save(c, line + 5);
    }
    printf("done\n");
  }
}
