"""The cache of finished jobs: folders, drafts, claims."""
